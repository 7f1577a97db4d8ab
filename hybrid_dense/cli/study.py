"""Train models × seeds of one task, one after another, and say which is better and whether that is beyond chance.

  hybrid-dense study configs/results/camvid.yaml --dry-run            what would run, what is done
  hybrid-dense study configs/results/camvid.yaml
  hybrid-dense study configs/results/camvid.yaml --only hybrid --seeds 0 1 --time-limit 120
  hybrid-dense study configs/results/camvid.yaml --robustness         the trained models under corrupted images

It may be stopped or killed at any time: the same command goes on. Logs, figures and configs go to
results/<task>/<model>/seed<k>, the summary to results/results.json. docs/study.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REHEARSAL_IMAGES = 2


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="the list of models and seeds (.yaml)")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="these models only")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds (default: the file's)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and what is done; nothing runs")
    parser.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="stop then, all saved; the same command goes on"
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="train nothing; measure the trained models under noise, blur, brightness, JPEG and shift",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="what is published (default: results)")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/study"),
        help="checkpoints and consoles (default: work_dirs/study)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to every config, such as data_root=DIR",
    )


def run(args: argparse.Namespace) -> int:
    from mmengine.logging import MMLogger

    from hybrid_dense.cli import CommandError
    from hybrid_dense.cli.session import parse_options
    from hybrid_dense.cli.study_runs import Study
    from hybrid_dense.study.plan import read_plan
    from hybrid_dense.study.queue import only_one

    MMLogger.get_current_instance().setLevel(logging.WARNING)  # it tells which variables a config reads, each time
    if any(seed < 0 for seed in args.seeds or ()):
        raise CommandError(f"--seeds {min(args.seeds)} is no seed; they are whole numbers from 0 up")
    plan = read_plan(args.study)
    runs = plan.runs(args.only, args.seeds, parse_options(args.cfg_options))
    deadline = time.monotonic() + 60 * args.time_limit if args.time_limit is not None else float("inf")
    study = Study(plan, runs, args.results, args.work_dir, deadline)
    if args.dry_run:
        return study.describe()
    with only_one(args.work_dir / plan.task) as lock:
        if args.robustness:
            return study.corrupt()
        return study.train(lock, train_command)


def train_command(run, work_dir: Path) -> Sequence[str]:
    """The training of a run, begun or gone on with."""
    command = [sys.executable, "-m", "hybrid_dense", "train", str(run.config), "--work-dir", str(work_dir)]
    command += ["--seed", str(run.seed), "--resume", "auto"]
    if run.options:
        command += ["--cfg-options", *run.option_words()]
    if run.processes == 1:
        return command
    # By its path, which loads nothing of the package, and so no torch.
    launcher = Path(__file__).parents[1] / "engine" / "local_processes.py"
    return [sys.executable, str(launcher), str(run.processes), *command, "--launcher", "pytorch"]
