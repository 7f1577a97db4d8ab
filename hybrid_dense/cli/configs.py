"""The configs that come with the project: task, data set, backbone, size, schedule, and what was measured.

  hybrid-dense configs                 all of them
  hybrid-dense configs upernet         those with this in a column, in any case
  hybrid-dense configs --markdown      write docs/zoo.md
  hybrid-dense configs --cost CONFIG   count and measure what a training takes, for configs/full_scale.json; minutes
  hybrid-dense configs --dump configs/demo.py demo.yaml      write a config, bases included, as data (.yaml or .json)

Parameters are those of the whole model. GFLOPs are those of the backbone, two a multiply-add, for one image of the size
that is named: detectors' test size, segmentors' training crop. Figures that were measured are kept in
configs/measured.json.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from hybrid_dense.cli.console import PARAMETERS, without

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs"
PAGE = PROJECT / "docs/zoo.md"
HEAD = """\
# The configs

Written by `hybrid-dense configs --markdown`. Parameters are those of the whole model; GFLOPs (two operations a
multiply-add, attention included) are those of the backbone for one image of the size beside them: the size that
detectors are tested at, the crop that segmentors are trained on. A schedule is how long × images a step.

[COCO and PASCAL VOC on 8 GPUs](#coco-and-pascal-voc-on-8-gpus-ready-to-run): commands, and what they should take.

What was measured is explained in [results.md](results.md). Everything else was built and took a training step and an
inference with the smallest variant, nothing more. All start from scratch, unless their name says otherwise. How they
are made, how to change their backbone and to start from pretrained weights: [configs.md](configs.md).
"""

# What the last folder of a config's data_root stands for; other folders stand for themselves.
DATASETS = {
    "coco": "COCO 2017",
    "VOCdevkit": "PASCAL VOC 2007+2012",
    "VOC2012": "PASCAL VOC 2012 aug",
    "ADEChallengeData2016": "ADE20K",
    "cityscapes": "Cityscapes",
    "camvid": "CamVid",
    "scenes": "embedded scenes",
}


@dataclass(frozen=True)
class Row:
    """One config as the table shows it."""

    config: str
    task: str
    data_set: str
    model: str
    backbone: str
    parameters: str
    gflops: str
    size: str
    schedule: str
    measured: str


HEADER = Row(
    config="config",
    task="task",
    data_set="data set",
    model="model",
    backbone="backbone",
    parameters="params (M)",
    gflops="backbone GFLOPs",
    size="at",
    schedule="schedule",
    measured="measured",
)


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="?", default="", help="only configs with this in a column")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--markdown", action="store_true", help="write the page docs/zoo.md")
    instead.add_argument("--cost", type=Path, metavar="CONFIG", help="print an entry of configs/full_scale.json")
    instead.add_argument("--dump", nargs=2, type=Path, metavar=("CONFIG", "FILE"), help="write a config as data")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    if args.filter and (args.markdown or args.cost or args.dump):
        raise CommandError(f"{args.filter!r} chooses rows of the list only; leave it out here")
    if args.dump:
        return dump(*args.dump)
    if args.cost:
        from hybrid_dense.cli.full_scale import measure

        with without(PARAMETERS):
            cost = measure(args.cost)
        print(json.dumps(cost, indent=2))
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the hosts' own, about their heads
        rows = [row for row in map(describe, list_configs()) if args.filter.lower() in " ".join(astuple(row)).lower()]
    if not rows:
        raise CommandError(f"no config has {args.filter!r} in its row; `hybrid-dense configs` lists all of them")
    if args.markdown:
        PAGE.write_text(page(rows))
        print(f"{len(rows)} configs written to {PAGE}")
    else:
        print(align([HEADER, *rows]))
    return 0


def dump(config: Path, out: Path) -> int:
    import hybrid_dense
    from hybrid_dense.cli.session import read_config, register_host
    from hybrid_dense.config_file import write_config

    hybrid_dense.register_all_modules()
    cfg = read_config(config)
    register_host(cfg)
    write_config(cfg, out)
    print(f"{config} written as data: {out}")
    return 0


def list_configs() -> list[Path]:
    """The leaf configs of the project but those of studies, those of one folder together."""
    from hybrid_dense.cli import CommandError

    if not CONFIGS.is_dir():
        raise CommandError(f"{CONFIGS} is not there; the configs come with a clone of the project (pip install -e .)")
    leaves = [
        path for path in CONFIGS.rglob("*.py") if not {"_base_", "results"} & set(path.relative_to(CONFIGS).parts)
    ]
    return sorted(leaves, key=lambda path: (path.parent, path.name))


def load(path: Path):
    """A config with its channels filled in; its data is not looked for."""
    import hybrid_dense
    from hybrid_dense.channels import fill_channels
    from hybrid_dense.cli.session import read_config

    hybrid_dense.register_all_modules()
    cfg = read_config(path)
    fill_channels(cfg)
    return cfg


def describe(path: Path) -> Row:
    """The row of one config. The model is built on the meta device, its data is not looked for."""
    cfg = load(path)
    size = image_size(cfg)
    name = str(path.relative_to(CONFIGS).with_suffix(""))
    return Row(
        config=name,
        task=task(cfg),
        data_set=DATASETS.get(Path(cfg.data_root).name, Path(cfg.data_root).name),
        model=cfg.model.decode_head.type if "decode_head" in cfg.model else cfg.model.type,
        backbone=backbone_name(cfg.model.backbone),
        parameters=f"{count_model_parameters(cfg) / 1e6:.1f}",
        gflops=f"{backbone_gflops(cfg, size):.1f}",
        size="×".join(map(str, size)),
        schedule=schedule(cfg),
        measured=measured().get(name, "not run"),
    )


def task(cfg) -> str:
    if cfg.default_scope == "mmseg":
        return "semantic"
    if cfg.model.get("test_cfg", {}).get("panoptic_on"):
        return "panoptic"
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    return "instance" if any("segm" in evaluator.get("metric", ()) for evaluator in evaluators) else "detection"


def backbone_name(backbone: dict) -> str:
    """The type, and what of variant and fusion it has a part for."""
    parts = [backbone["type"], backbone.get("variant")]
    if not backbone["type"].startswith("Plain"):
        parts.append(backbone.get("fusion", {}).get("type"))
    return " ".join(filter(None, parts))


def schedule(cfg) -> str:
    """How long, and at how many images a step."""
    length = cfg.train_cfg
    duration = f"{length.max_iters // 1000}k steps" if "max_iters" in length else f"{length.max_epochs} epochs"
    images = cfg.get("auto_scale_lr", {}).get("base_batch_size", cfg.train_dataloader.batch_size)
    return f"{duration} × {images}"


def image_size(cfg) -> tuple[int, int]:
    """Height and width: of a segmentor's training crop, else of a test image that is wider than high."""
    if cfg.default_scope == "mmseg":
        for step in cfg.train_pipeline:
            if step["type"] == "RandomCrop":
                return tuple(step["crop_size"])
    for step in cfg.test_pipeline:
        if step["type"] == "Resize":
            return tuple(sorted(step["scale"]))
    return (cfg.scenes.size,) * 2


def count_model_parameters(cfg) -> int:
    from mmengine.registry import DefaultScope

    from hybrid_dense.analysis.complexity import count_parameters

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return count_parameters(build(cfg.model))


def trained_rates(path: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of what a config with ``HybridLayerDecay`` trains its model with, before warm-up and scaling."""
    from mmengine.registry import DefaultScope

    from hybrid_dense.engine.layer_decay import HEADER, HybridLayerDecay, rates_table

    cfg = load(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build(cfg.model)
    rates = HybridLayerDecay(cfg.optim_wrapper, cfg.optim_wrapper.paramwise_cfg).list_rates(model)
    return HEADER, rates_table(rates)


def backbone_gflops(cfg, size: tuple[int, int]) -> float:
    """GFLOPs of one image of this size through a config's backbone, to a tenth."""
    return round(count_backbone_flops(cfg.default_scope, json.dumps(cfg.model.backbone), size) / 1e9, 1)


@cache
def count_backbone_flops(scope: str, backbone: str, size: tuple[int, int]) -> int:
    """FLOPs of one image of this size through a backbone, whose config is given as JSON; the same is counted once."""
    import torch
    from mmengine.registry import DefaultScope

    from hybrid_dense.analysis.complexity import count_flops

    with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
        module = build(json.loads(backbone)).to("meta")
        module.eval()
        images = torch.zeros(1, 3, *size, device="meta")
        return count_flops(lambda: module(images))


def build(config: dict):
    """A module that nothing is computed with: on the meta device, unless its class reads values while it is built."""
    import torch
    from mmengine.registry import MODELS

    try:
        with torch.device("meta"):
            return MODELS.build(config)
    except RuntimeError:
        return MODELS.build(config)


@cache
def measured() -> dict[str, str]:
    """What was measured, by the config's name."""
    return json.loads((CONFIGS / "measured.json").read_text())


def align(rows: Iterable[Row]) -> str:
    """Rows as lines of aligned columns. Nothing is cut, so that a narrow terminal wraps and a pipe sees everything."""
    cells = [astuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def page(rows: list[Row]) -> str:
    """docs/zoo.md."""
    from hybrid_dense.cli.full_scale import section
    from hybrid_dense.report.tables import markdown_table

    cells = [(f"[{row.config}](../configs/{row.config}.py)", *astuple(row)[1:]) for row in rows]
    return f"{HEAD}\n{markdown_table(astuple(HEADER), cells)}\n\n{section(CONFIGS)}"
