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
    parser.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="bfloat16 wherever the hardware computes it (default: as the config says)",
    )
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm"), default="none", help="set by tools/dist_*.sh and slurm_*.sh"
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)


def add_epochs_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, help="train this long; the learning-rate schedule is stretched along")
