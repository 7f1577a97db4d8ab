"""Parameters, GFLOPs and feature shapes of a backbone, of every variant, or of the whole model of a config.

  hybrid-dense describe                                        every variant, topology and fusion rule
  hybrid-dense describe rx50_vit_s --size 512 512              one backbone, part by part
  hybrid-dense describe rx50_vit_s --topology SerialResNeXtViT --fusion CrossAttentionFusion
  hybrid-dense describe configs/mask_rcnn_rx50_vit.py --size 800 1333
  hybrid-dense describe configs/mask_rcnn_rx50_vit.py --step --cfg-options data_root=DIR

A GFLOP counts two operations a multiply-add, attention included. --step takes one real training step and one test
image from the config's data sets and prints time and peak memory. --markdown prints docs/variants.md.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from hybrid_dense.cli.arguments import add_config_arguments

PLAIN = ("PlainResNeXt", "PlainViT")
EXAMPLE = "rx50_vit_s"
TOPOLOGY, FUSION = "ParallelResNeXtViT", "GatedFusion"


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help="a variant such as rx50_vit_s, or a config file; without, all variants"
    )
    add_config_arguments(parser, config=False)
    parser.add_argument(
        "--size", type=int, nargs="+", default=[512], metavar="PIXELS", help="image height and width, or one for both"
    )
    parser.add_argument(
        "--topology", default=TOPOLOGY, help="backbone class, where no config is given: a hybrid or Plain…"
    )
    parser.add_argument("--fusion", default=FUSION, help="fusion rule, where no config is given")
    parser.add_argument("--step", action="store_true", help="take one training step and one test image (config only)")
    parser.add_argument("--markdown", action="store_true", help="print all variants as a page of Markdown")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    if len(args.size) > 2:
        raise CommandError(f"--size takes a height and a width, or one number for both, not {len(args.size)} numbers")
    args.size = (args.size * 2)[:2]
    if args.markdown and args.model is not None:
        raise CommandError("--markdown prints all variants; leave the model out")
    is_config = args.model is not None and args.model.endswith((".py", ".json", ".yaml", ".yml"))
    if args.step and not is_config:
        raise CommandError("--step needs a config, since a backbone alone has no loss")
    if args.cfg_options and not is_config:
        raise CommandError("--cfg-options changes a config; name one, or use --topology and --fusion")
    if args.model is None and (args.topology, args.fusion) != (TOPOLOGY, FUSION):
        raise CommandError("--topology and --fusion need a variant such as rx50_vit_s; without one, all are listed")
    if is_config:
        describe_config(args)
    elif args.markdown:
        print(variants_page(tuple(args.size), survey(tuple(args.size))))
    elif args.model is None:
        describe_all(tuple(args.size))
    else:
        describe_backbone(args)
    return 0


def describe_backbone(args: argparse.Namespace) -> None:
    import hybrid_dense
    from hybrid_dense.analysis.structure import describe_parts
    from hybrid_dense.report.tables import print_table

    hybrid_dense.register_all_modules()
    config = dict(type=known_backbone(args.topology), variant=args.model, fusion=dict(type=args.fusion))
    parts = describe_parts(config, args.size)
    sections = [i for i, (part, following) in enumerate(zip(parts, parts[1:], strict=False)) if ends(part, following)]
    rows = [(part.name, " × ".join(map(str, part.output or ())), mega(part), giga(part)) for part in parts]
    title = f"{args.topology} {args.model}, {args.fusion}, {args.size[0]}×{args.size[1]}"
    print_table(title, ("part", "output", "params (M)", "GFLOPs"), rows, sections)


def ends(part, following) -> bool:
    """Whether a group of parts (stages, segments, fusions, …) ends with this one."""
    return part.name.split()[0] != following.name.split()[0] and part.name not in ("stem", "embed")


def known_backbone(name: str) -> str:
    """The name of a backbone class, or a CommandError that names the nearest."""
    from difflib import get_close_matches

    from hybrid_dense import list_topologies
    from hybrid_dense.cli import CommandError

    known = [*list_topologies(), *PLAIN]
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise CommandError(f"unknown topology {name!r}, did you mean {near!r}? There are {', '.join(known)}")
    return name


def describe_all(size: tuple[int, int]) -> None:
    from hybrid_dense.report.tables import print_table

    for title, (header, rows) in survey(size).items():
        print_table(title, header, rows)


def variants_page(size: tuple[int, int], tables: dict) -> str:
    """docs/variants.md, from the tables of ``survey``."""
    from hybrid_dense.report.tables import markdown_table

    head = (
        "# Variants, topologies and fusion rules\n\n"
        f"Written by `hybrid-dense describe --markdown`, for images of {size[0]}×{size[1]} pixels. A GFLOP counts two\n"
        "operations a multiply-add, attention included. `hybrid-dense describe VARIANT --topology … --fusion …` prints "
        "one\nof them part by part."
    )
    sections = [f"## {title[0].upper()}{title[1:]}\n\n{markdown_table(*table)}" for title, table in tables.items()]
    return "\n\n".join([head, *sections])


def survey(size: tuple[int, int]) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Header and rows of a table of every variant, one of every topology and one of every fusion rule."""
    import hybrid_dense

    hybrid_dense.register_all_modules()
    columns = ("CNN (M)", "ViT (M)", "fusions (M)", "backbone (M)", "GFLOPs", "channels")

    def row(name: str, **changes: object) -> tuple[str, ...]:
        return (f"`{name}`", *summarise(dict(dict(type=TOPOLOGY, variant=EXAMPLE), **changes), size))

    return {
        "every variant, `ParallelResNeXtViT` with `GatedFusion`": (
            ("variant", *columns),
            [row(variant, variant=variant) for variant in hybrid_dense.list_variants()],
        ),
        f"every topology, `{EXAMPLE}` with `GatedFusion`": (
            ("topology", *columns),
            [row(topology, type=topology) for topology in (*hybrid_dense.list_topologies(), *PLAIN)],
        ),
        f"every fusion rule, `ParallelResNeXtViT` `{EXAMPLE}`": (
            ("fusion", *columns),
            [row(fusion, fusion=dict(type=fusion)) for fusion in hybrid_dense.list_fusions()],
        ),
    }


def summarise(config: dict, size: tuple[int, int]) -> tuple[str, ...]:
    """Parameters of CNN, ViT, what joins them, and all; GFLOPs; channels of the maps."""
    import torch
    from mmengine.registry import MODELS

    from hybrid_dense.analysis.complexity import count_parameters
    from hybrid_dense.analysis.structure import describe_parts

    with torch.device("meta"):
        backbone = MODELS.build(config)
    total = describe_parts(config, size)[-1]
    trunks = [count_parameters(part) if part is not None else 0 for part in map(backbone._modules.get, ("cnn", "vit"))]
    counts = (*trunks, total.parameters - sum(trunks), total.parameters)
    channels = ", ".join(map(str, backbone.out_channels))
    return (*(f"{count / 1e6:.2f}" for count in counts), giga(total), channels)


def mega(part) -> str:
    return f"{part.parameters / 1e6:.2f}"


def giga(part) -> str:
    return f"{part.flops / 1e9:.1f}"


def describe_config(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from hybrid_dense.analysis.complexity import count_flops, count_parameters
    from hybrid_dense.cli.session import build_runner, load_config
    from hybrid_dense.inference import Predictor

    args.config = Path(args.model)
    cfg = load_config(args)
    predictor = Predictor(cfg, fold=False)
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
    from hybrid_dense.report.tables import print_table

    parts = [name for name in params if name != "total"]
    rows = [(name, params[name], flops[name]) for name in parts]
    rows.append((rest, *(2 * count["total"] - sum(count.values()) for count in (params, flops))))
    rows.append(("total", params["total"], flops["total"]))
    texts = [(name, f"{parameters / 1e6:.2f}", f"{operations / 1e9:.1f}") for name, parameters, operations in rows]
    print_table(title, ("part", "params (M)", "GFLOPs"), texts, sections=[len(parts)])


def peak_memory() -> float:
    """GiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
