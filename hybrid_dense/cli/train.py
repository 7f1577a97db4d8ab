"""Train a config of mmdet or mmseg.

hybrid-dense train configs/demo.py
hybrid-dense train configs/tiny_coco.py --cfg-options data_root=my_coco/ train_dataloader.batch_size=4
tools/dist_train.sh configs/mask_rcnn_rx50_vit.py 8        8 GPUs (or 2 CPU processes: … 2)
hybrid-dense train configs/demo.py --resume                go on from the last checkpoint of the work folder
hybrid-dense train configs/demo.py --dry-run               how long it will take, and what memory; nothing is trained
hybrid-dense train configs/demo.py --find-lr               look for a learning rate; nothing is trained
hybrid-dense train configs/demo.py --auto-batch --checkpointing --ema
                                                           the largest batch that fits, averaged weights
"""

from __future__ import annotations

import argparse

from hybrid_dense.cli.arguments import (
    add_config_arguments,
    add_epochs_argument,
    add_resume_argument,
    add_search_arguments,
    add_speed_arguments,
    add_trust_argument,
    add_verbose_argument,
)
from hybrid_dense.cli.console import PRELUDE, without
from hybrid_dense.garbage import collector_at_rest


def build_parser(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    course = parser.add_argument_group("course of the training")
    add_resume_argument(course)
    course.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the real batch over the config's auto_scale_lr.base_batch_size",
    )
    add_epochs_argument(course)
    course.add_argument("--seed", type=int, help="seed of every random number generator")
    course.add_argument(
        "--deterministic",
        action="store_true",
        help="equal runs give equal weights, bit for bit: a fixed seed (--seed, the config's or 0) and deterministic "
        "algorithms only; the SHA-256 of the weights is printed at the end",
    )
    trouble = parser.add_argument_group("broken data, sick trainings, foreign files")
    trouble.add_argument(
        "--max-broken",
        type=float,
        metavar="SHARE",
        help="share of the images that may be broken; they are named and skipped (default: the config's, or 0.01)",
    )
    trouble.add_argument(
        "--on-nonfinite",
        choices=("stop", "skip"),
        help="what a loss or gradient that is not finite does: end the training, or cost one step (default: the "
        "config's, or stop); either way the images are named and written to <work folder>/sick",
    )
    add_trust_argument(trouble)
    add_speed_arguments(parser)
    processes = parser.add_argument_group("several processes")
    processes.add_argument(
        "--strategy",
        choices=("ddp", "fsdp", "deepspeed"),
        help="how several processes share the training (default: ddp, by mmengine's Runner); fsdp spreads weights, "
        "gradients and optimizer state over them",
    )
    add_search_arguments(parser)
    add_verbose_argument(parser)


def run(args: argparse.Namespace) -> int:
    with without(() if args.verbose else PRELUDE):
        return train(args)


def train(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    if args.strategy is not None and args.launcher == "none":
        form = f"tools/dist_train.sh {args.config} N --strategy {args.strategy}"
        raise CommandError(f"--strategy {args.strategy} is for several processes: {form}")
    if args.dry_run and args.find_lr:
        raise CommandError("--dry-run and --find-lr are two looks at a training; take one after the other")
    with collector_at_rest():
        from hybrid_dense.cli.session import load_config

        cfg = load_config(args)

    import torch
    from mmengine.dist import get_world_size, is_main_process

    from hybrid_dense.cli.dry_run import dry_run
    from hybrid_dense.cli.look_ahead import choose_batch, sweep_rates
    from hybrid_dense.cli.session import (
        build_runner,
        join_processes,
        resume_from,
        stretch_schedule,
        trust_checkpoints,
    )
    from hybrid_dense.cli.switches import describe_training, set_switches
    from hybrid_dense.cli.training_head import RESULTS, TrainingHead
    from hybrid_dense.engine.determinism import make_deterministic, weights_hash
    from hybrid_dense.engine.distributed import no_restart_for_mistakes
    from hybrid_dense.engine.equip import equip, type_name
    from hybrid_dense.engine.full_disk import stopping_on_full_disk
    from hybrid_dense.engine.latest import find_latest
    from hybrid_dense.engine.sharding import whole_weights
    from hybrid_dense.engine.strategies import set_strategy

    set_switches(cfg, args)
    if args.trust_checkpoint:
        trust_checkpoints(cfg, args.resume)
    if args.epochs is not None:
        stretch_schedule(cfg, args.epochs)
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise CommandError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in {args.config}")
        cfg.auto_scale_lr.enable = True
    if args.max_broken is not None:
        cfg.max_broken = args.max_broken
    if args.seed is not None:
        cfg.randomness = dict(cfg.get("randomness", {}), seed=args.seed)
    if args.deterministic:
        make_deterministic(cfg)
    equip(cfg)
    if args.on_nonfinite is not None:
        next(hook for hook in cfg.custom_hooks if type_name(hook) == "SicknessHook").on_nonfinite = args.on_nonfinite
    restarted = join_processes(cfg, args.launcher)
    latest = find_latest(cfg.work_dir) if restarted and not args.dry_run else None
    if latest is not None:
        cfg.resume = str(latest)
    elif args.resume is not None:
        resume_from(cfg, args.resume)
    if args.strategy is not None:
        set_strategy(cfg, args.strategy, torch.cuda.is_available())
    if args.auto_batch:
        choose_batch(cfg, keep=not args.dry_run)
    if args.find_lr:
        sweep_rates(cfg)
        return 0
    if is_main_process():
        print(describe_training(cfg, get_world_size()), flush=True)
    if args.dry_run:
        with no_restart_for_mistakes():
            dry_run(cfg)
        return 0
    with stopping_on_full_disk(cfg.work_dir), no_restart_for_mistakes():
        runner = build_runner(cfg, ("train", "val"))
        runner.register_hook(TrainingHead(RESULTS))
        model = runner.train()
    if args.deterministic:
        weights = whole_weights(model)
        if is_main_process():
            print(f"weights sha256 {weights_hash(weights)}")
    return 0
