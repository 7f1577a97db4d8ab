"""What a process may still take, read from a copy of /proc and /sys."""

import subprocess
import sys

import pytest
import torch

from hybrid_dense.engine.memory import available_memory, is_out_of_memory, peak_memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Write files of a machine with 8 GiB left; returns its root."""

    def write(**files):
        files = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n", **files}
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(content))
        return tmp_path

    return write


def group(folder, limit, used, cache, version=2):
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return {
        f"{folder}/{names[0]}": limit,
        f"{folder}/{names[1]}": used,
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cache}\n",
    }


def test_without_control_groups_it_is_what_the_machine_has(machine):
    assert available_memory(machine()) == 8 * GIB


def test_the_tightest_group_around_the_process_counts(machine):
    files = {"proc/self/cgroup": "0::/jobs/mine\n"}
    files |= group("sys/fs/cgroup/jobs", limit=4 * GIB, used=3 * GIB, cache=GIB // 2)
    files |= group("sys/fs/cgroup/jobs/mine", limit="max", used=GIB, cache=0)
    assert available_memory(machine(**files)) == 1.5 * GIB


def test_a_container_that_sees_its_own_group_as_the_root(machine):
    files = {"proc/self/cgroup": "0::/host/path/not/visible\n", **group("sys/fs/cgroup", 2 * GIB, GIB, cache=0)}
    assert available_memory(machine(**files)) == GIB


def test_the_first_version_of_control_groups(machine):
    files = {"proc/self/cgroup": "5:cpu,cpuacct:/mine\n4:memory:/mine\n0::/\n"}
    files |= group("sys/fs/cgroup/memory/mine", 3 * GIB, 2 * GIB, cache=GIB // 4, version=1)
    files |= group("sys/fs/cgroup/memory", 2**63 - 4096, 7 * GIB, cache=0, version=1)  # its way to say "no limit"
    assert available_memory(machine(**files)) == 1.25 * GIB


def test_this_machine_and_this_process():
    assert 2**24 < peak_memory() < 2**40
    assert 2**20 < available_memory() < 2**50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the two apart")
def test_the_peak_of_a_child_is_not_that_of_its_parent():
    held = torch.ones(GIB // 2, dtype=torch.uint8)
    code = "from hybrid_dense.engine.memory import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout.split()[-1]) < peak_memory() - held.nbytes // 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("sizes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected
