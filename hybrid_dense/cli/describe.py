"""Parameters, GFLOPs and feature shapes of a backbone, or of the whole model of a config.

  hybrid-dense describe rx50_vit_s --size 512 512
  hybrid-dense describe configs/mask_rcnn_rx50_vit.py --size 800 1333
  hybrid-dense describe configs/mask_rcnn_rx50_vit.py --step --cfg-options data_root=DIR

A GFLOP counts two operations a multiply-add, attention included. --step takes one real training step and one test
image from the config's data sets and prints time and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from hybrid_dense.cli.arguments import add_config_arguments


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a variant such as rx50_vit_s, or a config file")
    add_config_arguments(parser, config=False)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="image size in pixels"
    )
    parser.add_argument("--topology", default="ParallelResNeXtViT", help="backbone class, where a variant is given")
    parser.add_argument("--fusion", default="GatedFusion", help="fusion rule, where a variant is given")
    parser.add_argument("--step", action="store_true", help="take one training step and one test image (config only)")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    if args.model.endswith((".py", ".json", ".yaml", ".yml")):
        describe_config(args)
    elif args.step:
        raise CommandError("--step needs a config, since a backbone alone has no loss")
    else:
        describe_backbone(args)
    return 0


def describe_backbone(args: argparse.Namespace) -> None:
    import torch
    from mmengine.registry import MODELS

    import hybrid_dense
    from hybrid_dense.analysis.complexity import count_flops, count_parameters

    hybrid_dense.register_all_modules()
    # Shapes and operations need no numbers: the meta device holds none and computes none.
    with torch.device("meta"):
        backbone = MODELS.build(dict(type=args.topology, variant=args.model, fusion=dict(type=args.fusion))).eval()
        images = torch.zeros(1, backbone.in_channels, *args.size)
    maps = backbone(images)
    calls = {"cnn": backbone.cnn, "vit": backbone.vit, "total": backbone}
    flops = {name: count_flops(lambda part=part: part(images)) for name, part in calls.items()}
    params = {name: count_parameters(part) for name, part in calls.items()}
    rest = "fusions"
    print_costs(f"{args.topology} {args.model}, {args.fusion}, {args.size[0]}×{args.size[1]}", params, flops, rest)
    for level, (features, stride) in enumerate(zip(maps, backbone.strides, strict=True), start=2):
        print(f"  C{level}  stride {stride:2}  {features.shape[1]} × {features.shape[2]} × {features.shape[3]}")


def describe_config(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from hybrid_dense.analysis.complexity import count_flops, count_parameters
    from hybrid_dense.cli.session import build_runner, load_config
    from hybrid_dense.inference import Predictor

    args.config = Path(args.model)
    cfg = load_config(args)
    predictor = Predictor(cfg)
    model = predictor.model
    # The backbone sees the size that the config's pipeline makes of the image, padded as the model pads it.
    seen: dict[str, torch.Tensor] = {}
    hook = model.backbone.register_forward_pre_hook(lambda _, inputs: seen.update(images=inputs[0]))
    flops = {"total": count_flops(lambda: predictor(np.zeros((*args.size, 3), np.uint8)))}
    hook.remove()
    params = {"total": count_parameters(model), "backbone": count_parameters(model.backbone)}
    with torch.inference_mode():
        features = model.backbone(seen["images"])
        flops["backbone"] = count_flops(lambda: model.backbone(seen["images"]))
        if getattr(model, "neck", None) is not None:
            flops["neck"] = count_flops(lambda: model.neck(features))
            params["neck"] = count_parameters(model.neck)
    height, width = seen["images"].shape[-2:]
    print_costs(f"{args.model}, the network sees {height}×{width}", params, flops, rest="heads")
    if args.step:
        take_step(build_runner(cfg, ("train", "test")), cfg.optim_wrapper)


def take_step(runner, optim_wrapper: dict) -> None:
    """One training step and one test image, from the runner's data."""
    batch = next(iter(runner.train_dataloader))
    runner.call_hook("before_run")
    optimizer = runner.build_optim_wrapper(optim_wrapper)
    start = time.perf_counter()
    loss = float(runner.model.train().train_step(batch, optimizer)["loss"])
    seconds = time.perf_counter() - start
    sizes = ", ".join(f"{image.shape[-2]}×{image.shape[-1]}" for image in batch["inputs"])
    print(f"training step: images {sizes}; loss {loss:.3f}; {seconds:.1f} s; peak memory {peak_memory():.1f} GiB")
    batch, start = next(iter(runner.test_dataloader)), time.perf_counter()
    found = runner.model.eval().test_step(batch)
    sizes = ", ".join(f"{image.shape[-2]}×{image.shape[-1]}" for image in batch["inputs"])
    print(f"test step: images {sizes}; {len(found)} predictions; {time.perf_counter() - start:.1f} s")


def print_costs(title: str, params: dict[str, int], flops: dict[str, int], rest: str) -> None:
    """A table of the parts, the rest that no part accounts for, and the total."""
    from rich.console import Console
    from rich.table import Table

    parts = [name for name in params if name != "total"]
    rows = [(name, params[name], flops[name]) for name in parts]
    rows.append((rest, *(2 * count["total"] - sum(count.values()) for count in (params, flops))))
    table = Table("part", title=title, title_justify="left")
    table.add_column("params (M)", justify="right")
    table.add_column("GFLOPs", justify="right")
    for name, parameters, operations in rows:
        table.add_row(name, f"{parameters / 1e6:.2f}", f"{operations / 1e9:.1f}", end_section=name == rest)
    table.add_row("total", f"{params['total'] / 1e6:.2f}", f"{flops['total'] / 1e9:.1f}")
    Console().print(table)


def peak_memory() -> float:
    """GiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
