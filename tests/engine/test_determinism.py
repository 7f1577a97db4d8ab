"""The real command on the real nano model: equal runs and resumed runs end in equal weights."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from hybrid_dense.engine.determinism import make_deterministic, weights_hash

# Mask R-CNN with drop path, random flips, sizes and crops; checkpoints every three of its two epochs' eight steps.
CONFIG = """
_base_ = {demo!r}
model = dict(backbone=dict(drop_path_rate=0.3))
scenes = dict(train=8, val=2, size=96)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(64, 64), (80, 80), (96, 96)], keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), allow_negative_crop=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = val_cfg = val_evaluator = None
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=9), logger=dict(interval=1))
custom_hooks = [dict(type="AutocastHook"), dict(type="EMAHook", begin_iter=1)]
randomness = dict(seed=None)
"""


@pytest.fixture(scope="module")
def train(command, tmp_path_factory):
    """Run `hybrid-dense train` on the config; returns its folder and the losses and hash that it printed."""
    folder = tmp_path_factory.mktemp("determinism")
    config = folder / "nano.py"
    config.write_text(CONFIG.format(demo=str(Path(__file__).parents[2] / "configs/demo.py")))

    def call(name, *arguments):
        work_dir = folder / name
        done = command("train", config, "--work-dir", work_dir, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        losses = re.findall(r"Epoch\(train\).*?\[(\d)\]\[(\d)/4\].* loss: (\S+)", done.stdout)
        found = re.findall(r"^weights sha256 ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
        return work_dir, losses, found

    return call


def test_runs_and_resumed_runs_end_in_equal_weights(train):
    folder, losses, hashes = train("first", "--deterministic")
    assert len(losses) == 8 and len(hashes) == 1
    _, again, hashes_again = train("again", "--deterministic", "--cfg-options", "train_dataloader.num_workers=2")
    assert (again, hashes_again) == (losses, hashes)
    resumed = train("resumed", "--deterministic", "--resume", folder / "iter_3.pth")
    assert resumed[1:] == (losses[3:], hashes)


def test_the_seed_is_the_users():
    cfg = Config(dict(randomness=dict(seed=3, diff_rank_seed=True)))
    make_deterministic(cfg)
    assert cfg.randomness == dict(seed=3, diff_rank_seed=True, deterministic=True)
    cfg = Config(dict(randomness=dict(seed=None)))
    make_deterministic(cfg)
    assert cfg.randomness == dict(seed=0, deterministic=True)


def test_hash_of_weights():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).bfloat16()
    weights = model.state_dict()
    first = weights_hash(weights)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert weights_hash(dict(reversed(weights.items()))) == first
    assert weights_hash({name: value.clone() for name, value in weights.items()}) == first
    others = [
        dict(weights, **{"0.weight": weights["0.weight"] + 1}),
        dict(weights, **{"0.weight": weights["0.weight"].reshape(2, 3)}),
        dict(weights, **{"0.weight": weights["0.weight"].float()}),
        dict(weights, **{"1.num_batches_tracked": torch.tensor(1)}),
        dict(weights, extra=None),
        {name.replace("0.", "2."): value for name, value in weights.items()},
    ]
    assert len({first, *map(weights_hash, others)}) == 1 + len(others)
