"""Files on disk that are there whole or not at all, with a checksum beside.

A file or folder is written under a temporary name in the same folder, flushed to the disk and renamed; a process may be
killed at any moment of it. What a killed one leaves behind, `clean_up` removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path

CHECKSUM_SUFFIX = ".sha256"
CHECKPOINT_SUFFIX = ".pth"
LOCK = "training.lock"

_TEMPORARY_SUFFIX = ".tmp-save"
_REPLACED_SUFFIX = ".replaced"


def hold(folder: Path, seconds: float = 5.0) -> int | None:
    """Hold a folder until the lock that is returned is closed or this process ends; None where there are no locks.

    A killed process holds nothing, and neither do the workers that it leaves behind.

    Raises:
        ValueError: another process holds it, and still does after ``seconds``.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except (BlockingIOError, PermissionError):
            if time.monotonic() > end:
                os.close(descriptor)
                raise ValueError(f"another training works in {folder}; stop it, or take another --work-dir") from None
            time.sleep(0.1)
        except OSError:
            os.close(descriptor)
            return None


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
