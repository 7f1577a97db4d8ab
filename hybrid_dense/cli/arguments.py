"""The arguments that `train`, `test`, `demo` and `describe` have in common; no torch, so that --help is quick."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config_arguments(parser: argparse.ArgumentParser, config: bool = True) -> None:
    if config:
        parser.add_argument("config", type=Path, help="config file (.py, .json, .yaml)")
    parser.add_argument(
        "--work-dir", type=Path, help="where logs and checkpoints go (default: work_dirs/<config name>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change the config: model.backbone.variant=rx26_vit_ti train_dataloader.batch_size=4; an unknown key is "
        "an error, +key=value adds one. data_root=DIR moves every data set to another folder of the same layout",
    )
    add_precision_arguments(parser)
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm"), default="none", help="set by tools/dist_*.sh and slurm_*.sh"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show mmengine's environment, config and hooks on the terminal too; the log file has them anyway",
    )


def add_precision_arguments(parser: argparse.ArgumentParser, default: str = "the config's; ours say bf16") -> None:
    parser.add_argument(
        "--amp",
        nargs="?",
        const="bf16",
        type=_precision,
        metavar="PRECISION",
        help="what backbone, neck and heads compute in: bf16 (also without a word), fp16 or fp32. A device that cannot "
        f"compute 16 bits itself stays at float32; fp16 trains with loss scaling (default: {default})",
    )
    parser.add_argument("--no-amp", dest="amp", action="store_const", const="fp32", help="the same as --amp fp32")


def _precision(word: str) -> str:
    word = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(word, word)
    if word not in ("bf16", "fp16", "fp32"):
        # `--amp CONFIG` is the common slip: argparse takes the next word for the precision.
        raise argparse.ArgumentTypeError(f"{word!r} is not bf16, fp16 or fp32; --amp without one comes last")
    return word


def add_speed_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory and speed")
    group.add_argument(
        "--accumulate",
        type=int,
        metavar="N",
        help="step once every N batches, as if the batch were N times as large; auto_scale_lr counts them too",
    )
    group.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute the backbone's activations again on the way back instead of keeping them: about half the memory, "
        "a quarter to a third more time",
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile for backbone and neck: minutes at the start; what cannot be compiled runs as ever",
    )
    group.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        help="let Ampere and later GPUs round what stays in float32 to 10 bits before they multiply it (default: on)",
    )
    group.add_argument(
        "--ema",
        nargs="?",
        const=True,
        type=_momentum,
        metavar="MOMENTUM",
        help="average the weights over the last steps, validate with the average and save it as the model "
        "(0.0002: over 5000 steps, and over no more than a tenth of the training so far)",
    )


def _momentum(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is no momentum; --ema without one comes last") from None


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("look before training")
    group.add_argument(
        "--auto-batch",
        action="store_true",
        help="try real training steps in a process of their own, and train with the largest batch that fits in memory",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="take 20 iterations and a few batches of validation, say what memory and time the whole training will "
        "take, and leave nothing behind",
    )
    group.add_argument(
        "--find-lr",
        action="store_true",
        help="no training: raise the learning rate from 1e-7 to 1, draw the loss over it in lr_sweep.png of the work "
        "folder and suggest one",
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="open checkpoints without restriction, so that they can run any code on this machine: only if you know "
        "who made them",
    )


def add_epochs_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--epochs", type=_positive, help="train this long; the learning-rate schedule is stretched along"
    )


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 up")
    return int(word)


def add_resume_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        type=_checkpoint,
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without a path (or with 'auto') from the last one of the work folder",
    )


def _checkpoint(word: str) -> str:
    if Path(word).suffix in (".py", ".json", ".yaml", ".yml"):
        # `--resume CONFIG` is the same slip as `--amp CONFIG`.
        raise argparse.ArgumentTypeError(f"{word!r} is a config; --resume without a checkpoint comes last")
    return word
