"""How much memory a process can still have: what the machine has left, and what its container grants."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_UNLIMITED = 2**60  # cgroup v1 writes a number near 2^63 for "no limit"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping: the machine's, or what the control group's limits leave if it is less.

    Args:
        root: where `proc` and `sys` are; a folder of the same layout, for tests.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([machine, *_left_by_groups(root)])


def peak_memory() -> int:
    """The most bytes that this process ever held in memory."""
    for line in _read(Path("/proc/self/status")).splitlines():
        # getrusage's peak of a process that another one started begins with the memory of that other.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# How the CPU's allocator, Python's and those of cuDNN and cuBLAS say it; the last two raise no OutOfMemoryError.
_OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "unable to find an engine", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: the GPU's, the CPU allocator's or Python's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _left_by_groups(root: Path) -> list[int]:
    """What every control group around the process leaves of its limit; page cache that can be dropped is left over."""
    left = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version_2 = not controllers
        if not version_2 and "memory" not in controllers.split(","):
            continue
        folder = root / ("sys/fs/cgroup" if version_2 else "sys/fs/cgroup/memory")
        limit, used, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        # In a container the path may be that of the host, and the folder itself is the group.
        for group in {folder, *(folder / part for part in _upwards(path))}:
            most, now = _read(group / limit), _read(group / used)
            if not most.isdigit() or not now.isdigit() or int(most) > _UNLIMITED:
                continue
            stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            left.append(max(int(most) - int(now) + int(stat.get(cache, 0)), 0))
    return left


def _upwards(path: str) -> list[str]:
    """ "/a/b" as ["a/b", "a"]."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _read(path: Path) -> str:
    """What the file says, "" if it is not there or not ours to read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
