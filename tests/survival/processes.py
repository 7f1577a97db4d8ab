"""Processes that tests start from this warm one, and a disk as small as they like."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

fork = multiprocessing.get_context("fork")

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000


def start(target: Callable, *arguments, log: Path) -> multiprocessing.Process:
    """Run ``target`` in a fork of this process, with everything that it prints in ``log``."""

    def run():
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # What pytest has put in place of these captures nothing here.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        target(*arguments)

    process = fork.Process(target=run)
    process.start()
    return process


def mount_small_disk(folder: Path, size: str) -> None:
    """Mount an empty file system of this size over ``folder``, for this process and its children alone.

    Raises:
        PermissionError: this machine does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        raise PermissionError(f"unshare: {os.strerror(ctypes.get_errno())}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()):
        raise PermissionError(f"mount: {os.strerror(ctypes.get_errno())}")
