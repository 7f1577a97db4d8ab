"""Checkpoints on disk: there whole or not at all, with a checksum beside, and the latest good one found again.

A file or folder is written under a temporary name in the same folder, flushed to the disk and renamed; a process may be
killed at any moment of it. What a killed one leaves behind, `clean_up` removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_distributed, is_main_process
from mmengine.logging import print_log

from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.resume_command import resume_command
from hybrid_dense.engine.stop import TrainingStopped

# The file of a work folder that names its latest checkpoint; mmengine's name for it.
LATEST = "last_checkpoint"
CHECKSUM_SUFFIX = ".sha256"
CHECKPOINT_SUFFIX = ".pth"
# EX_IOERR of sysexits.h: the training itself is sound, its disk is not.
WRITE_FAILED = 74

_TEMPORARY_SUFFIX = ".tmp-save"
_REPLACED_SUFFIX = ".replaced"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


# --- writing ----------------------------------------------------------------------------------------------------------


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it is whole. The same on every rank, because all of them write a folder."""
    return path.with_name(f".{path.name}{_TEMPORARY_SUFFIX}")


def checksum_path(path: Path) -> Path:
    """The file with the SHA-256 of ``path``, for `sha256sum -c`."""
    return path.with_name(path.name + CHECKSUM_SUFFIX)


def put_in_place(temporary: Path, path: Path) -> None:
    """Let what was written under ``temporary``, a file or a folder, appear as ``path``, with its checksum beside.

    Killed anywhere in between, ``path`` is as it was before or new and whole, and never beside another one's checksum.

    Raises:
        OSError: the disk is full or fails; ``path`` is then as it was before.
    """
    _flush(temporary)
    checksum = checksum_path(path)
    pending = temporary_path(checksum)
    _write_and_flush(pending, checksum_lines(temporary, path.name))
    # A checkpoint without a checksum is judged by its own CRCs, so there is none while one replaces the other. Flushed
    # step by step, because a power failure may keep later renames and lose earlier ones.
    checksum.unlink(missing_ok=True)
    _flush_folder(path.parent)
    _replace(temporary, path)
    _flush_folder(path.parent)
    os.replace(pending, checksum)
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it holds its old text or the new one, whatever happens."""
    _write_and_flush(temporary_path(path), text)
    os.replace(temporary_path(path), path)
    _flush_folder(path.parent)


def checksum_lines(path: Path, name: str) -> str:
    """What `sha256sum` prints about a file, or about every file of a folder, that is called ``name``."""
    if not path.is_dir():
        return f"{sha256(path)}  {name}\n"
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return "".join(f"{sha256(file)}  {name}/{file.relative_to(path).as_posix()}\n" for file in files)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder, and its checksum; one that is not there is no error."""
    if path.is_dir():
        # Under a temporary name first: half a folder must not pass for a checkpoint.
        doomed = temporary_path(path)
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)
    checksum_path(path).unlink(missing_ok=True)


def discard_temporary(path: Path) -> None:
    """Remove what a failed save of ``path`` has written so far."""
    for temporary in (temporary_path(path), temporary_path(checksum_path(path))):
        _delete(temporary)


def clean_up(folder: Path) -> None:
    """Remove what killed runs have left in ``folder``: unfinished files and checksums of checkpoints that are gone."""
    restore_replaced(folder)
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        _delete(path)
    for checksum in folder.glob(f"*{CHECKPOINT_SUFFIX}{CHECKSUM_SUFFIX}"):
        if not checksum.with_suffix("").exists():
            checksum.unlink(missing_ok=True)


def restore_replaced(folder: Path) -> None:
    """Put a folder back that a run had moved aside for a new one when it was killed."""
    for aside in folder.glob(f".*{_REPLACED_SUFFIX}{_TEMPORARY_SUFFIX}"):
        path = folder / aside.name[1:].removesuffix(_REPLACED_SUFFIX + _TEMPORARY_SUFFIX)
        if not path.exists():
            with contextlib.suppress(FileNotFoundError):  # another rank was quicker
                aside.rename(path)


def describe_failure(path: Path, error: Exception, command: str, needed: int = 0) -> str:
    """One line on a file that could not be written.

    Args:
        path: what was to be written.
        error: what came of it.
        command: the command that goes on with the training.
        needed: bytes of the file; 0 where they are not known.
    """
    if not _is_full(error):
        return f"{path} could not be written: {error}; mend that, then go on with: {command}"
    size = f"about {needed / 2**20:.1f} MiB needed, " if needed else ""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**20
    return (
        f"{path} could not be written, the disk is full: {size}{free:.1f} MiB free. Earlier checkpoints are whole; "
        f"make room, then go on with: {command}"
    )


def is_write_failure(error: Exception) -> bool:
    """Whether the disk is to blame. torch's own writer of archives reports that as a RuntimeError."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "inline_container" in str(error))


@contextlib.contextmanager
def stopping_on_full_disk(folder: str | Path, dumped_config: Path | None = None) -> Iterator[None]:
    """Turn "no space left" from any writer inside, logs included, into a `TrainingStopped` that says how to go on.

    Args:
        folder: the work folder.
        dumped_config: as `resume_command` takes it.
    """
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        path = Path(error.filename if isinstance(error.filename, str) else folder)
        raise TrainingStopped(WRITE_FAILED, describe_failure(path, error, resume_command(dumped_config))) from error


def _is_full(error: Exception) -> bool:
    return is_write_failure(error) and getattr(error, "errno", errno.ENOSPC) in _FULL


def _write_and_flush(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    """Onto the disk with it: a file, or a folder with everything in it."""
    if path.is_dir():
        for inner in path.iterdir():
            _flush(inner)
        _flush_folder(path)
    else:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _replace(new: Path, path: Path) -> None:
    if path.exists() and (path.is_dir() or new.is_dir()):
        # No rename replaces a folder. Killed between these two, `restore_replaced` puts the old one back.
        aside = temporary_path(path.with_name(path.name + _REPLACED_SUFFIX))
        path.rename(aside)
        new.rename(path)
        _delete(aside)
    else:
        os.replace(new, path)


def sha256(path: Path) -> str:
    """The hash of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# --- finding the latest good one --------------------------------------------------------------------------------------


def note_latest(work_dir: Path, checkpoint: Path) -> None:
    """Write the name of the latest checkpoint: relative to the work folder if it lies inside, so that both can move."""
    work_dir, checkpoint = work_dir.absolute(), checkpoint.absolute()
    inside = checkpoint.is_relative_to(work_dir)
    write_text(work_dir / LATEST, str(checkpoint.relative_to(work_dir) if inside else checkpoint))


def find_latest(work_dir: str | Path) -> Path | None:
    """The checkpoint from which the training of this work folder goes on; None where there is none.

    It is the one that `last_checkpoint` names. If that is missing, cut off or damaged, it is the newest good one before
    it, and a warning names the bad one. Processes of one group all get what rank 0 found.

    Raises:
        ValueError: there are checkpoints and none can be read; starting over unasked would bury them.
    """
    if not is_distributed():
        return _find_latest(Path(work_dir))
    outcome: list = [None]
    if is_main_process():
        try:
            outcome = [_find_latest(Path(work_dir))]
        except ValueError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError):
        raise outcome[0]
    return outcome[0]


def find_damage(path: Path) -> str | None:
    """Why a checkpoint is not what was once saved, None if it is: by its checksum or else its archive's CRCs."""
    if not path.exists():
        return f"{path} is missing"
    saved = _read_checksums(path)
    if saved:
        for file, digest in saved.items():
            if not file.is_file() or sha256(file) != digest:
                return f"{file} does not match {checksum_path(path).name}: it was cut off or changed"
        return None
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if not files or not all(file.stat().st_size for file in files):
        return f"{path} is empty"
    return next((f"{file} is damaged" for file in files if zipfile.is_zipfile(file) and _has_bad_crc(file)), None)


def _find_latest(work_dir: Path) -> Path | None:
    named = _named_latest(work_dir)
    folders = {work_dir} if named is None else {work_dir, named.parent}
    for folder in folders:
        restore_replaced(folder)
    problems = []
    if named is not None:
        try:
            _check(named)
            return named
        except ValueError as error:
            problems.append(str(error))
    candidates = []
    for path in _earlier(folders, named):
        try:
            iterations = _finished_iterations(path)
        except ValueError as error:
            problems.append(str(error))
        else:
            if iterations is not None:
                candidates.append((iterations, path.stat().st_mtime, path))
    for *_, path in sorted(candidates, reverse=True):
        damage = find_damage(path)
        if damage is None:
            problems = problems or [f"{work_dir / LATEST} names no checkpoint"]
            _warn(f"{'; '.join(problems)}. Going on from the newest good one: {path}")
            return path
        problems.append(damage)
    if problems:
        raise ValueError(
            f"nothing in {work_dir} can be resumed ({'; '.join(problems)}); remove {LATEST} and the checkpoints to "
            "start from the beginning"
        )
    return None


def _named_latest(work_dir: Path) -> Path | None:
    """What `last_checkpoint` names: a name in the work folder, or the absolute path that mmengine writes."""
    note = work_dir / LATEST
    name = note.read_text().strip() if note.is_file() else ""
    if not name:
        return None
    if "://" in name:
        raise ValueError(f"{note} names {name}, which cannot be checked from here; name it yourself: --resume {name}")
    # An absolute path may be from before the folder was moved or copied: what lies here goes first.
    here, there = work_dir / Path(name).name, work_dir / name
    return here if here.exists() and Path(name).is_absolute() or not there.exists() else there


def _earlier(folders: set[Path], named: Path | None) -> Iterator[Path]:
    """The other checkpoints of these folders, without those of the same series that are later than ``named``."""
    series, last = _numbered(named) if named is not None else ("", None)
    for folder in folders:
        for path in folder.glob(f"*{CHECKPOINT_SUFFIX}"):
            prefix, number = _numbered(path)
            later = last is not None and number is not None and prefix == series and number > last
            # The best ones are for use, saved without the optimizer.
            if path != named and not later and not path.name.startswith("best_"):
                yield path


def _numbered(path: Path) -> tuple[str, int | None]:
    """``epoch_12.pth`` is ("epoch_", 12)."""
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    return (match[1], int(match[2])) if match else (path.stem, None)


def _check(path: Path) -> None:
    """Raise ValueError unless a training can go on from this checkpoint."""
    damage = find_damage(path)
    if damage:
        raise ValueError(damage)
    if _finished_iterations(path) is None:
        raise ValueError(f"{path} holds weights and no state of a training")


def _finished_iterations(path: Path) -> int | None:
    """How far the training had come that wrote this, None if it holds no training's state.

    Raises:
        ValueError: it cannot be read without running code from it, or not at all.
    """
    if path.is_dir() and not (path / "rank0.pth").is_file():
        return _numbered(path)[1] or 0  # DeepSpeed's folders; their files are its own
    content = safe_load(path / "rank0.pth" if path.is_dir() else path)
    meta = content.get("meta")
    if not isinstance(meta, dict) or "iter" not in meta or "message_hub" not in content:
        return None
    return meta["iter"]


def _read_checksums(path: Path) -> dict[Path, str]:
    """SHA-256 by file, {} where there is no checksum."""
    checksum = checksum_path(path)
    if not checksum.is_file():
        return {}
    matches = [_CHECKSUM_LINE.fullmatch(line) for line in checksum.read_text(errors="replace").splitlines()]
    # By the file's place and not its name, because both may have been renamed together.
    return {path.joinpath(*Path(match[2]).parts[1:]): match[1] for match in matches if match}


def _has_bad_crc(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.testzip() is not None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return True


def _warn(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print_log(message, logger="current", level=logging.WARNING)
