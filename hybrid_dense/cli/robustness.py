"""How much of a model's figure is left under noise, blur, brightness, JPEG and shift, each at five strengths.

  hybrid-dense robustness configs/demo_semantic.py work_dirs/demo_semantic/epoch_10.pth --metric mIoU
  hybrid-dense robustness CONFIG CHECKPOINT --metric mIoU --corruptions noise shift

The config's test data are evaluated clean and corrupted; the figures go to robustness.json in the work folder. What was
measured there before is not measured again. docs/study.md has the strengths. `study --robustness` compares models.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from hybrid_dense.cli import CommandError
from hybrid_dense.cli.arguments import add_trust_argument
from hybrid_dense.cli.evaluation_run import Subject, evaluate_conditions, in_own_process


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="config file (.py, .json, .yaml)")
    parser.add_argument("checkpoint", type=Path, help="weights to evaluate (.pth or .safetensors)")
    parser.add_argument("--metric", default="mIoU", help="the figure, as the evaluator calls it (default: mIoU)")
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="noise blur brightness jpeg shift (default: all)"
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="the config's data (default: test)")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/<config name>/robustness")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config")
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.report.study_tables import robustness_rows
    from hybrid_dense.report.tables import print_table
    from hybrid_dense.study.corruptions import CORRUPTIONS
    from hybrid_dense.study.robustness import ROBUSTNESS

    unknown = [name for name in args.corruptions or () if name not in CORRUPTIONS]
    if unknown:
        raise CommandError(f"--corruptions {unknown[0]} is none of {', '.join(CORRUPTIONS)}")
    for what, path in (("config", args.config), ("checkpoint", args.checkpoint)):
        if not path.is_file():
            raise CommandError(f"no {what} {path}")
    work_dir = args.work_dir or Path("work_dirs") / args.config.stem / "robustness"
    subject = Subject(
        args.config, tuple(args.cfg_options), args.checkpoint, work_dir, args.split, args.trust_checkpoint
    )
    measured = measure(subject, args.metric, 1.0, work_dir / ROBUSTNESS, args.corruptions)
    print_table(f"{args.metric} of {args.checkpoint.name}", *robustness_rows({args.config.stem: measured}))
    print(f"written to {work_dir / ROBUSTNESS}")
    return 0


def measure(
    subject: Subject,
    metric: str,
    scale: float,
    file: Path,
    corruptions: Sequence[str] | None = None,
    deadline: float = float("inf"),
) -> dict:
    """Evaluate a model clean and corrupted, and keep the figures in ``file``; what is there is not measured again.

    Args:
        subject: the model and its data.
        metric: the figure, as the evaluator calls it.
        scale: what it is multiplied by.
        file: robustness.json.
        corruptions: names; all by default.
        deadline: `time.monotonic` after which nothing more is begun.

    Raises:
        TrainingStopped: the time is over.
    """
    from hybrid_dense.engine.stop import TERMINATED, TrainingStopped
    from hybrid_dense.study.corruptions import STRENGTHS
    from hybrid_dense.study.robustness import read_measured, write_measured

    def figures(conditions: list) -> list[float]:
        if time.monotonic() > deadline:
            raise TrainingStopped(TERMINATED, "the time is over; the same command goes on")
        console = subject.work_dir / "console.log"
        return [scale * value for value in in_own_process(console, evaluate_conditions, subject, metric, conditions)]

    names = suited(subject.config, corruptions)
    measured = read_measured(file)
    of = dict(
        checkpoint=hashlib.sha256(subject.checkpoint.read_bytes()).hexdigest()[:16],
        metric=metric,
        split=subject.split,
        options=[option for option in subject.options if not option.startswith("data_root=")],  # wherever they lie
    )
    if measured["clean"] is not None and measured.get("of") != of:
        raise CommandError(f"{file} holds figures of another checkpoint, metric, split or option; move it away")
    measured["of"] = of
    if measured["clean"] is None:
        measured["clean"] = figures([None])[0]
        write_measured(file, measured)
    for name in names:
        if name not in measured["corruptions"]:
            measured["corruptions"][name] = figures([(name, strength) for strength in STRENGTHS])
            write_measured(file, measured)
            print(f"{name}: {', '.join(f'{value:.4g}' for value in measured['corruptions'][name])}", flush=True)
    return read_measured(file)


def suited(config: Path, asked: Sequence[str] | None) -> list[str]:
    """The corruptions that were asked for, or all that a model of this config can be measured under."""
    from hybrid_dense.cli.session import read_config
    from hybrid_dense.study.corruptions import CORRUPTIONS

    has_boxes = read_config(config).get("default_scope") == "mmdet"
    if has_boxes and "shift" in (asked or ()):
        raise CommandError("--corruptions shift moves label maps, not boxes; leave it out for a detector")
    return list(asked or (name for name in CORRUPTIONS if not (has_boxes and name == "shift")))
