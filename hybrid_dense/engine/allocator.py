"""Keep freed memory, where training runs on a CPU."""

import ctypes
import platform

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make glibc keep what tensors free instead of giving it back to the kernel; returns whether it does.

    By default every tensor over 32 MB is mapped anew and faulted in page by page, each time: at 1024×1024 pixels a
    training step took a quarter longer (docs/results.md, Growth). Memory then stays with the process until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
