"""The text of a config: a few lines of Python over the project's base files, each number with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config

from hybrid_dense.data.planning.recipe import Recipe
from hybrid_dense.data.planning.sources import Plan, quoted
from hybrid_dense.schedules import stretch_scheduler

NANO = "rxnano_vit_pico"
NANO_BATCH = 8  # what configs/demo.py trains with, at the rate of its schedule
WIDTH = 120

MODELS = {"detect": "faster_rcnn.py", "instance": "mask_rcnn.py", "semantic": "fpn_head.py"}
NANO_MODELS = {"detect": "mask_rcnn_nano.py", "instance": "mask_rcnn_nano.py", "semantic": "fpn_head_nano.py"}
DATA_SETS = {"detect": "coco_detection.py", "instance": "coco_instance.py", "semantic": "semantic.py"}
RUNTIMES = {"detect": "detection.py", "instance": "detection.py", "semantic": "segmentation.py"}
EVALUATORS = {"detect": 'metric=["bbox"]', "instance": 'metric=["bbox", "segm"]'}


def compose(
    plan: Plan, recipe: Recipe, variant: str, weights: dict[str, str] | None, output: Path, configs: Path
) -> str:
    """The config. ``configs`` is the project's folder of configs, ``output`` the file that it will be.

    ``weights`` are the sources that the trunks ``cnn`` and ``vit`` start from; None is from scratch.
    """
    nano = variant == NANO
    files = base_files(plan.task, nano, configs)
    schedule = Config.fromfile(files[-1])
    base_batch = schedule.get("auto_scale_lr", {}).get("base_batch_size", NANO_BATCH)
    base_rate = schedule.optim_wrapper.optimizer.lr
    rate = recipe.learning_rate(base_rate, base_batch)
    train, val = plan.splits["train"], plan.splits["val"]
    steps = recipe.epochs * -(-train.images // recipe.total_batch)
    lines = [
        f"# By `hybrid-dense new-config` from {plan.source}: {train.images} images to train, {val.images} to validate.",
        "_base_ = [",
        *(f"    {quoted(path)}," for path in written_from(files, output, configs.parent)),
        "]",
        f"data_root = {quoted(str(plan.data_root).rstrip('/') + '/')}",
        *wrapped("classes = (", [quoted(name) for name in plan.classes], ")"),
        *model(variant, weights, head(plan.task, nano, len(plan.classes))),
        *pipelines(plan.task, recipe),
        *wrapped("train_data = dict(", [*common(plan.task, "train"), *train.arguments], ")"),
        *wrapped("val_data = dict(", [*common(plan.task, "test"), *val.arguments], ")"),
        *wrapped("train_dataloader = dict(", [f"batch_size={recipe.batch}", SAMPLER, "dataset=train_data"], ")"),
        "val_dataloader = dict(dataset=val_data)",
        "test_dataloader = val_dataloader",
        *evaluators(plan.task, val.annotations),
        f"# {recipe.gpus} × {recipe.batch} images a step: the rate is {base_rate:g} × {recipe.total_batch} / "
        f"{base_batch} (linear rule), and follows if you change the batch.",
        *wrapped(
            "optim_wrapper = dict(",
            [f"optimizer=dict(lr={rate:g})", *(PRETRAINED_RATES if weights else [])],
            ")",
        ),
        f"auto_scale_lr = dict(enable=True, base_batch_size={recipe.total_batch})",
        f"# {recipe.epochs} epochs, {steps} steps: the fewer images, the more often each is seen.",
        f"train_cfg = dict(max_epochs={recipe.epochs}, val_interval={recipe.val_interval})",
        "param_scheduler = [",
        *(f"    {literal(step)}," for step in stretched(schedule, recipe.epochs, steps)),
        "]",
        f"default_hooks = dict(checkpoint=dict(interval={recipe.val_interval}))",
    ]
    return "\n".join(lines) + "\n"


def model(variant: str, weights: dict[str, str] | None, heads: str) -> list[str]:
    """The model's difference to its base file, whose ``heads`` are given."""
    if not weights:
        return [f"model = dict(backbone=dict(variant={quoted(variant)}), {heads})"]
    return [
        "# From ImageNet's weights; the CNN's first stage and all its statistics stay (docs/weights.md and rates.md).",
        "model = dict(",
        "    backbone=dict(",
        f"        variant={quoted(variant)},",
        "        frozen_stages=1,",
        "        norm_eval=True,",
        "        init_cfg=dict(",
        '            type="TrunkPretrained",',
        *(f"            {trunk}={quoted(source)}," for trunk, source in weights.items()),
        "        ),",
        "    ),",
        f"    {heads},",
        ")",
    ]


# The ViT's rates fall by 0.7 a block, the CNN is at a tenth and falls by 0.95 a stage, as in the pretrained flagship.
PRETRAINED_RATES = [
    'constructor="HybridLayerDecay"',
    "paramwise_cfg=dict(layer_decay=dict(cnn=0.95, vit=0.7), cnn=0.1)",
]
SAMPLER = 'sampler=dict(type="DefaultSampler", shuffle=True)'


def base_files(task: str, nano: bool, configs: Path) -> list[Path]:
    """The project's files that the config builds on; the schedule comes last."""
    base = configs / "_base_"
    return [
        base / "models" / (NANO_MODELS if nano else MODELS)[task],
        base / "datasets" / DATA_SETS[task],
        base / "runtime" / RUNTIMES[task],
        base / "schedules" / ("adamw_cosine_short.py" if nano else "adamw_1x.py"),
    ]


def written_from(files: Iterable[Path], output: Path, project: Path) -> list[str]:
    """Relative paths inside the project, so that it can move; absolute ones elsewhere."""
    inside = output.is_relative_to(project)
    return [os.path.relpath(file, output.parent) if inside else str(file) for file in files]


def head(task: str, nano: bool, classes: int) -> str:
    number = f"dict(num_classes={classes})"
    if task == "semantic":
        return f"decode_head={number}"
    if task == "instance":
        return f"roi_head=dict(bbox_head={number}, mask_head={number})"
    if nano:  # the nano model of boxes alone is the one of masks without them
        return f'type="FasterRCNN", roi_head=dict(bbox_head={number}, mask_roi_extractor=None, mask_head=None)'
    return f"roi_head=dict(bbox_head={number})"


def pipelines(task: str, recipe: Recipe) -> list[str]:
    """The base's pipelines at this data set's image size."""
    sizes = [f"Resize=dict(scale={recipe.scale})"]
    if task == "semantic":
        sizes += [f"RandomResize=dict(scale={recipe.scale})", f"RandomCrop=dict(crop_size={recipe.crop})"]
    return [
        "# Long side of nearly all images, short side of the middle one; 1333 × 800 at most.",
        f"sizes = dict({', '.join(sizes)})",
        'train_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.train_pipeline]',
        'test_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.test_pipeline]',
    ]


def common(task: str, pipeline: str) -> list[str]:
    """What the data sets of both splits are told."""
    kind = ['type="BaseSegDataset"'] if task == "semantic" else []
    return [*kind, "data_root=data_root", "metainfo=dict(classes=classes)", f"pipeline={pipeline}_pipeline"]


def evaluators(task: str, annotations: str) -> list[str]:
    if task == "semantic":
        return []  # the base's, which needs no file
    return [
        "# COCO's mAP (IoU 0.50 to 0.95), for boxes that came from VOC too.",
        f"val_evaluator = dict(ann_file={annotations}, {EVALUATORS[task]})",
        "test_evaluator = val_evaluator",
    ]


def stretched(schedule: Config, epochs: int, steps: int) -> list[dict]:
    """The schedule's learning rate over this many epochs; the warm-up takes a tenth of the steps at most."""
    stages = [dict(stage) for stage in schedule.param_scheduler]
    for stage in stages:
        stretch_scheduler(stage, epochs / schedule.train_cfg.max_epochs)
        if not stage.get("by_epoch", True):
            stage["end"] = max(1, min(stage["end"], steps // 10))
    return stages


def wrapped(opening: str, items: list[str], closing: str) -> list[str]:
    """``opening`` item, item, … ``closing`` in one line, or in several that break between items only."""
    single = f"{opening}{', '.join(items)}{',' if len(items) == 1 else ''}{closing}"
    if len(single) <= WIDTH:
        return [single]
    lines = ["   "]
    for item in items:
        if lines[-1].strip() and len(lines[-1]) + len(item) + 2 > WIDTH:
            lines.append("   ")
        lines[-1] += f" {item},"
    return [opening, *lines, closing]


def literal(value) -> str:
    """A value as Python, dicts as ``dict(…)``."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={literal(item)}' for key, item in value.items())})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return quoted(value) if isinstance(value, str) else repr(value)
