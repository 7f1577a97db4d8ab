"""See a ResNeXt-ViT hybrid learn: train, evaluate and draw on embedded scenes, in minutes on a CPU.

  hybrid-dense demo                     Mask R-CNN: boxes and masks, COCO mAP
  hybrid-dense demo --task semantic     semantic FPN: every pixel, mIoU

Writes to work_dirs/demo (or demo_semantic): predictions.png, curves.png, metrics.json and the checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

from hybrid_dense.cli.arguments import add_config_arguments, add_epochs_argument
from hybrid_dense.engine.local_processes import run_in_processes, torch_computes_on_gpus
from hybrid_dense.garbage import collector_at_rest

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {"instance": "demo.py", "semantic": "demo_semantic.py"}
HEADLINES = {
    "coco/bbox_mAP": "box mAP (IoU 0.50:0.95)",
    "coco/bbox_mAP_50": "box AP50",
    "coco/segm_mAP": "mask mAP (IoU 0.50:0.95)",
    "coco/segm_mAP_50": "mask AP50",
    "mIoU": "mIoU",
    "mAcc": "mean class accuracy",
    "aAcc": "pixel accuracy",
}
PICTURES = 8


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, default="instance", help="boxes and masks, or a label for every pixel")
    add_config_arguments(parser, config=False)
    add_epochs_argument(parser)


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    args.config = CONFIGS / TASKS[args.task]
    if not args.config.is_file():
        raise CommandError(f"{args.config} is not there; run the demo from a clone of the project (pip install -e .)")
    args.work_dir = args.work_dir or Path("work_dirs") / args.config.stem
    if args.launcher == "none":
        print(f"training on embedded scenes; what mmengine says goes to {args.work_dir / 'console.log'}", flush=True)
        if (count := cpu_processes()) > 1:
            return run_in_processes([sys.executable, "-m", "hybrid_dense", *sys.argv[1:], "--launcher=pytorch"], count)
    return train_and_show(args, args.work_dir)


def train_and_show(args: argparse.Namespace, work_dir: Path) -> int:
    start = time.perf_counter()
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / "console.log").open("a") as log, redirect_stdout(log):
        with collector_at_rest():
            from mmengine.dist import get_world_size

            from hybrid_dense.cli.session import build_runner, join_processes, load_config, stretch_schedule
            from hybrid_dense.engine.equip import equip
            from hybrid_dense.engine.full_disk import stopping_on_full_disk
            from hybrid_dense.engine.latest import find_latest
            from hybrid_dense.report.curves import save_curves
            from hybrid_dense.report.gallery import save_gallery

            cfg = load_config(args)
        if args.epochs is not None:
            stretch_schedule(cfg, args.epochs)
        cfg.default_hooks.progress = dict(type="RichProgressHook")
        equip(cfg)
        join_processes(cfg, args.launcher)
        cfg.train_dataloader.batch_size = max(1, cfg.train_dataloader.batch_size // get_world_size())
        runner = build_runner(cfg, ("train", "val"))
        with stopping_on_full_disk(work_dir, work_dir / args.config.name):
            runner.train()
    checkpoint = find_latest(work_dir)  # all processes together
    if runner.rank != 0:
        return 0

    logged = runner.message_hub.log_scalars
    metrics = {name.removeprefix("val/"): logged[name].current() for name in logged if name.startswith("val/")}
    metrics = {name: float(value) for name, value in metrics.items() if not name.endswith("time")}
    save_curves(Path(runner.log_dir) / "vis_data" / "scalars.json", work_dir / "curves.png")
    save_gallery(compare(cfg, checkpoint, runner.val_dataloader.dataset), work_dir / "predictions.png")
    print_summary(metrics, work_dir, checkpoint, time.perf_counter() - start)
    return 0


def cpu_processes() -> int:
    """How many processes the demo runs in: one on a GPU; on a CPU two, if it has two cores.

    RoIAlign, NMS and the matching of anchors run on one core, so two processes use two cores better than two
    threads do; and they stay fast where another program wants a core, which threads that wait for each other do not.
    """
    if torch_computes_on_gpus():
        import torch

        if torch.cuda.is_available():
            return 1
    return min(2, len(os.sched_getaffinity(0)))


def compare(cfg, checkpoint: Path, dataset) -> list[tuple]:
    """(ground truth, prediction) of the first validation images."""
    from hybrid_dense.inference import Predictor

    infos = [dataset.get_data_info(index) for index in range(min(PICTURES, len(dataset)))]
    predictions = Predictor(cfg, checkpoint)([info["img_path"] for info in infos])
    return [(truth_of(info, prediction), prediction) for info, prediction in zip(infos, predictions, strict=True)]


def truth_of(info: dict, prediction):
    """The annotation of a data set's entry, as a Prediction on the same image."""
    from dataclasses import replace

    import cv2
    import numpy as np
    from pycocotools import mask as coco_mask

    if prediction.label_map is not None:
        return replace(prediction, label_map=cv2.imread(info["seg_map_path"], cv2.IMREAD_UNCHANGED))
    instances = info["instances"]
    return replace(
        prediction,
        boxes=np.array([instance["bbox"] for instance in instances], np.float32).reshape(-1, 4),
        labels=np.array([instance["bbox_label"] for instance in instances], np.int64),
        masks=np.stack([coco_mask.decode(instance["mask"]).astype(bool) for instance in instances]),
        scores=None,
    )


def print_summary(metrics: dict, work_dir: Path, checkpoint: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"held-out scenes, after {seconds / 60:.1f} minutes")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, title in HEADLINES.items():
        if name in metrics:
            value = metrics[name] / 100 if name in ("mIoU", "mAcc", "aAcc") else metrics[name]
            table.add_row(title, f"{value:.3f}")
    console = Console()
    console.print(table)
    for what in ("predictions.png", "curves.png", "metrics.json", checkpoint.name):
        console.print(f"  {work_dir / what}", highlight=False)
