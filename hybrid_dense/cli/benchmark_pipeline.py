"""`hybrid-dense benchmark --pipeline`: what each transform of a data pipeline costs, and what its loader delivers."""

from __future__ import annotations

import argparse
import random

import cv2
import mmcv
import numpy as np
import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from hybrid_dense.analysis.machine import describe_machine
from hybrid_dense.analysis.pipeline import time_loader, time_pipeline
from hybrid_dense.cli.benchmark import read_model
from hybrid_dense.cli.benchmark_report import origin, print_rows, progress_bar, write_json
from hybrid_dense.data.check import check_data


def measure_pipeline(args: argparse.Namespace) -> int:
    cfg = read_model(str(args.pipeline), args.cfg_options)
    check_data(cfg, ("train",))
    # As in the worker of a data loader.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    np.random.seed(0)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    order = random.sample(range(len(dataset)), len(dataset))
    chosen = [order[index % len(order)] for index in range(args.images)]
    with progress_bar() as bar:
        task = bar.add_task("transforms", total=args.images)
        work = kinds_of_work(cfg.default_scope)
        times = time_pipeline(dataset, chosen, *work, progress=lambda: bar.advance(task))
    rows = [[step.name, f"{1000 * step.seconds:.2f}", *(f"{value / times.seconds:.1%}" for value in
             (step.seconds, *step.parts.values(), step.seconds - sum(step.parts.values())))]
            for step in times.steps]  # fmt: skip
    rows.append(["all", f"{1000 * times.seconds:.2f}", *(f"{share:.1%}" for share in (1, *times.shares.values()))])
    columns = ["transform", "ms an image", "share", *times.shares]
    machine = describe_machine(torch.device("cpu"), torch.float32)
    print_rows(f"{machine['cpu']}, one thread; {args.pipeline}: {times.images} images", columns, rows)
    print(f"one process, no loader: {1 / times.seconds:.2f} images/s; {times.refused} images refused")
    loaders = []
    for workers in args.workers:
        settings = dict(num_workers=workers, persistent_workers=workers > 0, dataset=dataset)
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, **settings), seed=0)
        speed = time_loader(loader, args.images)
        loaders.append(dict(workers=workers, images_per_second=speed, a_worker=speed / max(1, workers)))
        print(f"data loader, {workers} workers: {speed:.2f} images/s, {speed / max(1, workers):.2f} a worker")
    if args.out:
        page = dict(**origin(machine), config=str(args.pipeline), transforms=times.record(), loaders=loaders)
        write_json(args.out / "pipeline.json", page)
    return 0


def kinds_of_work(scope: str) -> tuple[tuple[type, ...], dict[str, list]]:
    """What the host's masks are made of, and where its transforms decode and resize."""
    functions = dict(decode=[(mmcv, "imfrombytes")], resize=[(mmcv, "imresize"), (mmcv, "imrescale")])
    if scope != "mmdet":
        return (), functions
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    from hybrid_dense.data import late_masks_mmdet, reduced_decode_mmdet

    functions["decode"].append((reduced_decode_mmdet, "decode"))
    return (BitmapMasks, PolygonMasks, late_masks_mmdet.LateMasks), functions
