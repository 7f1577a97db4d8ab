"""The checkpoint from which a training goes on: the latest that is whole."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_distributed, is_main_process
from mmengine.logging import print_log

from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.files import CHECKPOINT_SUFFIX, checksum_path, restore_replaced, sha256, write_text

# The file of a work folder that names its latest checkpoint; mmengine's name for it.
LATEST = "last_checkpoint"

_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


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
