"""Evaluate a checkpoint with the config's test data and metrics: COCO mAP for detectors, mIoU for segmentors.

  hybrid-dense test configs/demo.py work_dirs/demo/epoch_6.pth
  hybrid-dense test configs/demo.py model.safetensors                an exported model
  hybrid-dense test configs/results/camvid/hybrid.py camvid          shipped with the package
  tools/dist_test.sh configs/mask_rcnn_rx50_vit.py work_dirs/mask_rcnn_rx50_vit/epoch_12.pth 8

The figures are printed as tables, with the best and worst classes, and written to metrics.json and metrics.md in the
work folder. The checkpoint is opened weights-only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hybrid_dense.cli.arguments import add_config_arguments, add_trust_argument, add_verbose_argument
from hybrid_dense.cli.console import PRELUDE, without
from hybrid_dense.garbage import collector_at_rest
from hybrid_dense.model_zoo import locate


def build_parser(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("checkpoint", type=Path, help="weights (.pth or .safetensors), or the name of a shipped model")
    add_trust_argument(parser)
    add_verbose_argument(parser)


def run(args: argparse.Namespace) -> int:
    with without(() if args.verbose else PRELUDE):
        return test(args)


def test(args: argparse.Namespace) -> int:
    checkpoint = locate(args.checkpoint)
    with collector_at_rest():
        from hybrid_dense.cli.session import build_runner, join_processes, load_config

        cfg = load_config(args)

    from mmengine.dist import is_main_process

    from hybrid_dense.engine.checkpoint import read_checkpoint
    from hybrid_dense.engine.equip import type_name
    from hybrid_dense.engine.model_weights import load_weights
    from hybrid_dense.engine.parts import unwrap
    from hybrid_dense.layers.fold import fold_batch_norm

    cfg.load_from, cfg.resume = None, False
    # What a checkpoint holds is the average already, and its copy of the model would not take folded layers.
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) != "EMAHook"]
    weights = read_checkpoint(checkpoint, trust=args.trust_checkpoint)
    join_processes(cfg, args.launcher)
    runner = build_runner(cfg, ("test",))
    model = unwrap(runner.model)
    load_weights(model, weights)
    fold_batch_norm(model.eval())
    runner.test()
    if is_main_process():
        print(f"metrics written to {Path(cfg.work_dir) / 'metrics.json'} and metrics.md")
    return 0
