"""The mission's config at full size, on real images, on a CPU."""

import re
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "configs/mask_rcnn_rx50_vit.py"


@pytest.fixture(scope="module")
def described(command, data_root):
    options = (
        f"data_root={data_root / 'tiny_coco'}",
        "train_dataloader.batch_size=1",
        "train_dataloader.num_workers=0",
    )
    options += ("train_dataloader.persistent_workers=False",)
    options += ("test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False")
    done = command("describe", CONFIG, "--size", 800, 1333, "--step", "--cfg-options", *options, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_takes_one_training_step_at_full_size(described):
    loss = float(re.search(r"training step: images .*; loss ([\d.]+);", described)[1])
    # An untrained Mask R-CNN of 80 classes: ln 81 = 4.4 for the classes, 0.7 each for objectness and masks.
    assert 4.0 < loss < 12.0


def test_detects_on_one_test_image_at_full_size(described):
    height, width = map(int, re.search(r"test step: images (\d+)×(\d+); 1 predictions", described).groups())
    assert 800 in (height, width) or 1333 in (height, width)
