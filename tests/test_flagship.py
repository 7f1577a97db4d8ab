"""The mission's config on real images, on a CPU: at half of its size, and (slow) at its full one."""

import re
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "configs/mask_rcnn_rx50_vit.py"
SIZES = {"half": (400, 667), "full": (800, 1333)}


@pytest.fixture(scope="module", params=["half", pytest.param("full", marks=pytest.mark.slow)])
def described(request, command, data_root):
    """The sides that images are resized to, and what the command says."""
    short, long = SIZES[request.param]
    options = (
        f"data_root={data_root / 'tiny_coco'}",
        f"train_dataloader.dataset.pipeline.2.scale=({long},{short})",
        f"test_dataloader.dataset.pipeline.1.scale=({long},{short})",
        "train_dataloader.batch_size=1",
        *(f"{split}_dataloader.num_workers=0" for split in ("train", "test")),
        *(f"{split}_dataloader.persistent_workers=False" for split in ("train", "test")),
    )
    done = command("describe", CONFIG, "--size", short, long, "--step", "--cfg-options", *options, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return (short, long), done.stdout


def sides(text: str) -> set[int]:
    return set(map(int, text.split("×")))


def test_takes_one_training_step(described):
    size, said = described
    images, loss = re.search(r"training step: images (\d+×\d+).*; loss ([\d.]+);", said).groups()
    assert sides(images) & set(size)
    # An untrained Mask R-CNN of 80 classes: ln 81 = 4.4 for the classes, 0.7 each for objectness and masks.
    assert 4.0 < float(loss) < 12.0


def test_detects_on_one_test_image(described):
    size, said = described
    images = re.search(r"test step: images (\d+×\d+); 1 predictions", said)[1]
    assert sides(images) & set(size)
