"""Train a config of mmdet or mmseg.

hybrid-dense train configs/demo.py
hybrid-dense train configs/tiny_coco.py --cfg-options data_root=my_coco/ train_dataloader.batch_size=4
tools/dist_train.sh configs/mask_rcnn_rx50_vit.py 8        8 GPUs (or 2 CPU processes: … 2)
hybrid-dense train configs/demo.py --resume                go on from the last checkpoint of the work folder
"""

from __future__ import annotations

import argparse

from hybrid_dense.cli.arguments import add_config_arguments, add_epochs_argument


def build_parser(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without a path (or with 'auto') from the last one of the work folder",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the real batch over the config's auto_scale_lr.base_batch_size",
    )
    add_epochs_argument(parser)
    parser.add_argument(
        "--max-broken",
        type=float,
        metavar="SHARE",
        help="share of the images that may be broken; they are named and skipped (default: the config's, or 0.01)",
    )
    parser.add_argument("--seed", type=int, help="seed of every random number generator")


def run(args: argparse.Namespace) -> int:
    from mmengine.runner import find_latest_checkpoint

    from hybrid_dense.cli import CommandError
    from hybrid_dense.cli.session import build_runner, join_processes, load_config, stretch_schedule
    from hybrid_dense.engine.checkpoint import read_checkpoint

    cfg = load_config(args)
    if args.epochs is not None:
        stretch_schedule(cfg, args.epochs)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = find_latest_checkpoint(cfg.work_dir) if args.resume == "auto" else args.resume
        if cfg.load_from is not None:
            read_checkpoint(cfg.load_from)  # missing, broken or unsafe files end here, before mmengine opens them
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise CommandError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in {args.config}")
        cfg.auto_scale_lr.enable = True
    if args.max_broken is not None:
        cfg.max_broken = args.max_broken
    if args.seed is not None:
        cfg.randomness = dict(cfg.get("randomness", {}), seed=args.seed)
    join_processes(cfg, args.launcher)
    build_runner(cfg, ("train", "val")).train()
    return 0
