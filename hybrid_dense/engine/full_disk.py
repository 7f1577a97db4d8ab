"""A disk that is full: recognised, said in one line, and the end of a training that can go on."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from hybrid_dense.engine.resume_command import resume_command
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped

_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        f"{path} could not be written, the disk is full, or a quota: {size}{free:.1f} MiB free. Earlier "
        f"checkpoints are whole; make room, then go on with: {command}"
    )


def is_write_failure(error: Exception) -> bool:
    """Whether the disk is to blame. torch's own writer of archives reports that as a RuntimeError; its reader too."""
    if isinstance(error, RuntimeError):
        return "inline_container" in str(error) and "StreamReader" not in str(error)
    return isinstance(error, OSError)


@contextlib.contextmanager
def stopping_on_full_disk(folder: str | Path, dumped_config: Path | None = None) -> Iterator[None]:
    """Turn "no space left" from any writer inside, logs included, into a `TrainingStopped` that says how to go on.

    Args:
        folder: the work folder.
        dumped_config: as `resume_command` takes it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_full(error):
            raise
        named = getattr(error, "filename", None)
        path = Path(named if isinstance(named, str) else folder)
        raise TrainingStopped(WRITE_FAILED, describe_failure(path, error, resume_command(dumped_config))) from error


def _is_full(error: Exception) -> bool:
    return is_write_failure(error) and getattr(error, "errno", errno.ENOSPC) in _FULL
