"""The machine that a benchmark runs on: what it is, how fast it multiplies matrices, what memory a process holds."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# Products large enough that a machine reaches its own rate, and small enough to repeat between measurements.
GEMM_SIDES = {"cpu": 3072, "cuda": 8192}


class Gemm:
    """Products of two square matrices, as ``a @ b`` and as a linear layer computes them (``a @ b.T``).

    Which of the two is faster depends on the machine's library, so both run, and the best of all is the machine's rate.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.side = GEMM_SIDES.get(device.type, GEMM_SIDES["cpu"])
        self.flops = 2 * self.side**3
        shape = (self.side, self.side)
        self.factors = [torch.randn(shape, device=device).to(dtype) for _ in range(2)]

    def products(self) -> dict[str, Callable[[], torch.Tensor]]:
        a, b = self.factors
        return {"a @ b": lambda: a @ b, "a @ b.T": lambda: F.linear(a, b)}


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict:
    """What a reader of the figures must know of the machine, as plain values."""
    machine = dict(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        threads=torch.get_num_threads(),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        python=platform.python_version(),
        torch=torch.__version__,
    )
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        machine.update(gpu=gpu.name, gpu_memory=gpu.total_memory, cuda=torch.version.cuda)
    return machine


def cpu_name() -> str:
    """The model and, where it says, the instructions that count here: ``AMD EPYC (AVX512_BF16)``."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    capabilities = torch.cpu.get_capabilities()
    known = [key for key in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if capabilities.get(key)]
    return f"{name} ({known[0].upper()})" if known else name


def state_bytes(module: nn.Module) -> int:
    """What a module holds between two steps: parameters, buffers and gradients."""
    parameters = list(module.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return sum(tensor.nbytes for tensor in (*parameters, *module.buffers(), *gradients))


class MemoryMeter:
    """Bytes that are held now, and the most that were held since ``start``.

    On a GPU they are its allocator's. On a CPU they are the process's resident memory, in which freed memory may stay:
    there a process measures one thing and ends.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def start(self) -> int:
        """Bytes held now; the peak counts from here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        with suppress(OSError):  # where it is forbidden, the peak counts from the start of the process
            Path("/proc/self/clear_refs").write_text("5")
        return memory_status("VmRSS")

    def peak(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device)
        # Not getrusage's: that of a child begins with the memory of the process that launched it.
        return memory_status("VmHWM")


def memory_status(key: str) -> int:
    """Bytes that Linux counts for this process: VmRSS resident, VmHWM their peak, VmData private and writable."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def limit_memory(device: torch.device, size: int) -> None:
    """Let this process allocate no more than ``size`` bytes beyond what it holds; more raises an error in torch."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), index)
    else:
        # Linux counts private writable memory under this limit; virtual, so what is held is not all that is counted.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_status("VmData") + size, resource.RLIM_INFINITY))
