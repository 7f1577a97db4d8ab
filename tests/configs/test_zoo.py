"""Every config of configs/ works: one training step and one inference on real images, with the smallest variant."""

import math
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from zoo_data import write_layouts

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted(
    path for path in CONFIGS.rglob("*.py") if not {"_base_", "results"} & set(path.relative_to(CONFIGS).parts)
)
NANO = ("model.backbone.variant=rxnano_vit_pico", "model.backbone.drop_path_rate=0.0")

# Images of about 100 pixels and thin heads: the classes and the wiring are the config's own.
SHRINK = 0.12
SIZES = {"scale", "scales", "crop_size", "img_scale", "size"}
LARGEST = {
    "num_queries": 20,
    "num_dn_queries": 10,
    "num_layers": 2,
    "nms_pre": 100,
    "max_per_img": 20,
    "num": 32,
    "num_points": 256,
    "fc_out_channels": 64,
    "feedforward_channels": 64,
    "channels": 64,
    "conv_out_channels": 32,
    "stacked_convs": 1,
    "score_thr": 0.0,  # an untrained head is sure of nothing
}

every_config = pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(CONFIGS)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, scenes) -> Path:
    real = os.environ.get("HYBRID_DENSE_DATA")
    return write_layouts(tmp_path_factory.mktemp("zoo"), Path(real) if real else None, scenes)


def load(path: Path, zoo: Path, *options: str) -> Config:
    """The config as the commands load it, with the smallest variant and its data set among those of `zoo`."""
    from hybrid_dense.cli.session import load_config

    root = Config.fromfile(path).data_root
    options = (*NANO, *options)
    if root == "scenes/":
        options += ("scenes.train=8", "scenes.val=4", "scenes.size=96")
    elif Path(root).is_absolute() or (zoo / root).is_dir():
        options += (f"data_root={zoo / root}",)
    else:
        pytest.fail(f"{path} reads {root}, for which zoo_data.py writes no layout")
    return load_config(Namespace(config=path, cfg_options=list(options), work_dir=zoo / "work", amp="fp32"))


def shrink(node, path: str = "") -> None:
    """Make images and heads small, wherever in a config they are."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, (dict, list)) and key not in SIZES:
            shrink(value, path or str(key))
        elif path == "model" and key in LARGEST and isinstance(value, (int, float)):
            node[key] = min(value, LARGEST[key])
        elif key in SIZES and (path.endswith("_dataloader") or node.get("type") == "BatchFixedSizePad"):
            node[key] = small(value)


def small(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(small, value))
    return max(64, round(value * SHRINK / 16) * 16)


def shorten(cfg: Config) -> None:
    """One step of two images in this process, then a validation of two."""
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        for dataset in loader.dataset.get("datasets", [loader.dataset]):
            dataset.indices = 2 if split != "train" or "datasets" not in loader.dataset else 1
    cfg.train_cfg["max_iters" if "max_iters" in cfg.train_cfg else "max_epochs"] = 1
    cfg.train_cfg.val_interval = 1
    cfg.randomness = dict(seed=0)
    # mmengine keeps logs and pictures of a process by name.
    cfg.experiment_name = cfg.visualizer.name = cfg.filename
    # The weights of mask_rcnn_rx50_vit_pretrained.py are those of its own variant.
    cfg.model.backbone.pop("init_cfg", None)


@every_config
def test_takes_a_training_step_and_an_inference(path, zoo, monkeypatch):
    from hybrid_dense.cli.session import build_runner

    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(zoo / "cache"))
    monkeypatch.setenv("HYBRID_DENSE_DATA", str(zoo / "data"))
    cfg = load(path, zoo)
    shrink(cfg._cfg_dict)
    shorten(cfg)
    runner = build_runner(cfg, ("train", "val", "test"))
    trained = {name: parameter for name, parameter in runner.model.named_parameters() if parameter.requires_grad}
    reached, before = set(), {}
    for name, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
        parameter.register_hook(lambda _, name=name: before.update({name: trained[name].detach().clone()}))
    try:
        runner.train()
    finally:
        shutil.rmtree(cfg.work_dir)

    logged = {name: float(values.current()) for name, values in runner.message_hub.log_scalars.items()}
    assert runner.iter == 1
    assert math.isfinite(logged["train/loss"]) and logged["train/loss"] > 0
    assert reached == set(trained), "DistributedDataParallel waits for every parameter"
    moved = {name for name in reached if not torch.equal(before[name], trained[name])}
    assert any(name.startswith("backbone.") for name in moved) and any("head." in name for name in moved)
    figures = {name: value for name, value in logged.items() if name.startswith("val/") and "time" not in name}
    assert figures and all(map(math.isfinite, figures.values()))


OTHERS = [
    ("SerialResNeXtViT", "rxnano_vit_pico", "AddFusion"),
    ("PlainViT", "rx26_vit_ti", "AddFusion"),
]


@every_config
def test_any_backbone_fits_without_touching_another_number(path, zoo, monkeypatch):
    """The whole model is built, and its neck and heads take the maps of a backbone with other channels."""
    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(zoo / "cache"))
    for topology, variant, fusion in OTHERS:
        options = (f"model.backbone.type={topology}", f"model.backbone.variant={variant}")
        cfg = load(path, zoo, *options, f"model.backbone.fusion.type={fusion}")
        assert "backbone." not in str(cfg.model)
        cfg.model.backbone.pop("init_cfg", None)
        shrink(cfg._cfg_dict)
        feed(cfg.model)


@torch.no_grad()
def feed(model: dict) -> None:
    """Build a model and take a small image through the part of it whose sizes depend on the backbone."""
    try:
        with torch.device("meta"):
            run_parts(MODELS.build(model))
    except (RuntimeError, NotImplementedError):
        # Some heads read values, and some operators know no meta tensors. What does not fit fails here too.
        run_parts(MODELS.build(model))


def run_parts(model: torch.nn.Module) -> None:
    """Backbone and neck, and the heads that stand on the backbone itself."""
    model.eval()  # BatchNorm has one value a channel here
    maps = model.extract_feat(torch.zeros(1, 3, 64, 64))
    for name in ("decode_head", "auxiliary_head", "panoptic_head"):
        head = getattr(model, name, None)
        if hasattr(head, "pixel_decoder"):
            assert list(head.pixel_decoder.strides) == [64 // level.shape[-1] for level in maps]
            head.pixel_decoder(maps)
        elif head is not None:
            head(maps)
