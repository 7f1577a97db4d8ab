"""Peak memory of a step, for `hybrid-dense benchmark`: here on a GPU, in a process of its own on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import torch

import hybrid_dense
from hybrid_dense.analysis.benchmark import DoesNotFit
from hybrid_dense.analysis.machine import limit_memory
from hybrid_dense.analysis.startup import last_line
from hybrid_dense.analysis.subjects import Subject
from hybrid_dense.analysis.workload import measure_memory
from hybrid_dense.cli import CommandError
from hybrid_dense.cli.benchmark import build_workload, register_scope
from hybrid_dense.engine.allocator import keep_freed_memory
from hybrid_dense.engine.memory import available_memory, is_out_of_memory


def memory_measurer(subjects: list, workloads: dict, order: dict, bar, task):
    """A function from (subject, size, mode) to peak bytes: in this process on a GPU, in one of its own on a CPU."""
    device, by_name = torch.device(order["device"]), {subject.name: subject for subject in subjects}
    if device.type == "cuda" and order["limit"]:
        limit_memory(device, order["limit"])

    def measure(name: str, size: int, mode: str) -> tuple[int, int]:
        bar.update(task, description=f"memory of {name}, {mode} at {size}×{size}")
        if device.type == "cuda":
            return measured_here(workloads[name], size, mode)
        limit = order["limit"] or available_memory()
        return measured_apart(by_name[name], dict(order, size=size, mode=mode, limit=limit))

    return measure


def measured_here(workload, size: int, mode: str) -> tuple[int, int]:
    try:
        return measure_memory(workload, size, mode)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    raise DoesNotFit("memory ran out")


def measured_apart(subject, order: dict) -> tuple[int, int]:
    text = json.dumps(dict(order, subject=asdict(subject)))
    command = [sys.executable, "-m", "hybrid_dense", "benchmark", "--memory-of", text]
    done = subprocess.run(command, capture_output=True, text=True)
    allowed = f"it may take {order['limit'] / 2**30:.1f} GiB"
    if done.returncode < 0:
        raise DoesNotFit(f"its process was ended by signal {-done.returncode}, and {allowed}")
    if done.returncode > 0:
        raise CommandError(f"{subject.name}: {last_line(done.stderr).removeprefix('hybrid-dense: error: ')}")
    found = json.loads(last_line(done.stdout))
    if found is None:
        raise DoesNotFit(f"its step needs more memory; {allowed}")
    return tuple(found)


def answer_memory(order: dict) -> int:
    """Print the bytes that one step takes, or null where it takes more than the limit. Then the process ends."""
    hybrid_dense.register_all_modules()
    keep_freed_memory()
    torch.set_num_threads(order["threads"])
    subject = Subject(**order["subject"])
    if subject.kind != "model" and subject.scope:
        register_scope(subject.scope)
    workload = build_workload(subject, order)
    limit_memory(torch.device(order["device"]), order["limit"])
    try:
        print(json.dumps(measure_memory(workload, order["size"], order["mode"])))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print("null")
    return 0
