"""`hybrid-dense benchmark --startup`: seconds from the launch of a command to its answer or its first step."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from hybrid_dense.analysis.machine import describe_machine
from hybrid_dense.analysis.startup import summary, time_command, time_until
from hybrid_dense.cli.benchmark import read_model
from hybrid_dense.cli.benchmark_report import origin, print_rows, progress_bar, write_json
from hybrid_dense.cli.demo import CONFIGS, TASKS

FIRST_STEP_LIMIT = 600.0


def measure_startup(args: argparse.Namespace) -> int:
    script = Path(sys.executable).with_name("hybrid-dense")
    commands = {
        "hybrid-dense --help": [str(script), "--help"],
        "import hybrid_dense": [sys.executable, "-c", "import hybrid_dense"],
        "of it, import torch": [sys.executable, "-c", "import torch"],
    }
    if not script.is_file():
        del commands["hybrid-dense --help"]
        print(f"no {script}: `pip install -e .` makes it; --help is not measured", file=sys.stderr)
    found = {}
    with progress_bar() as bar:
        task = bar.add_task("", total=len(commands) + 1)
        for name, command in commands.items():
            bar.update(task, description=name)
            found[name] = summary(time_command(command, args.repeat))
            bar.advance(task)
        bar.update(task, description="first training step of the demo")
        found["demo, first training step"] = summary([first_step_seconds()])
        bar.advance(task)
    rows = [[name, f"{times['median']:.2f}", f"{times['minimum']:.2f}"] for name, times in found.items()]
    machine = describe_machine(torch.device("cpu"), torch.float32)
    print_rows(f"{machine['cpu']}, {machine['cores']} cores; seconds from launch", ["", "median", "least"], rows)
    if args.out:
        write_json(args.out / "startup.json", dict(**origin(machine), startup=found))
    return 0


def first_step_seconds() -> float:
    """Seconds from the launch of the demo until its first training step is logged. Its scenes are drawn already."""
    read_model(str(CONFIGS / TASKS["instance"]), [])  # draws the scenes, which happens once for a machine
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder) / "demo"
        command = [sys.executable, "-m", "hybrid_dense", "demo", "--work-dir", str(work_dir)]
        command += ["--cfg-options", "default_hooks.logger.interval=1"]

        def stepped() -> bool:
            return any(os.path.getsize(log) for log in work_dir.glob("*/vis_data/*.json"))

        return time_until(command, stepped, FIRST_STEP_LIMIT, Path(folder) / "demo.log")
