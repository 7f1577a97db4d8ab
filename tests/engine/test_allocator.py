"""Freed memory stays with the process; seen in a process of its own, since it cannot be undone."""

import subprocess
import sys

import pytest

from hybrid_dense.engine import allocator

FAULTS = """
import resource, torch
from hybrid_dense.engine.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)  # 64 MB: above what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


def test_large_tensors_are_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(after) < int(before) / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert allocator.keep_freed_memory() is False
