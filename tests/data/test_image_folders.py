"""Whatever reads a folder of images and label maps finds the same pairs in it."""

import numpy as np
import pytest
from PIL import Image

from hybrid_dense.cli import main
from hybrid_dense.data.checks.read_folder import read_folder
from hybrid_dense.data.formats.masks import read_masks
from hybrid_dense.data.formats.model import Losses

LAYOUTS = {
    "split below images/ and masks/": [("images/train", "masks/train"), ("images/val", "masks/val")],
    "images/ beside masks/": [("images", "masks")],
    "annotations": [("images/training", "annotations/training")],
    "img_dir": [("img_dir/train", "ann_dir/train")],
    "train/ beside trainannot/": [("train", "trainannot"), ("val", "valannot")],
    "train/ beside train_labels/": [("train", "train_labels")],
}


def write(folder, places, ending):
    for images, masks in places:
        for name in ("a", "b"):
            (folder / images).mkdir(parents=True, exist_ok=True)
            (folder / masks).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (len(images), 3, 4)).save(folder / images / f"{name}.jpg")
            ids = np.indices((6, 8)).sum(axis=0) % 2
            Image.fromarray(ids.astype(np.uint8)).save(folder / masks / f"{name}{ending}.png")


@pytest.mark.parametrize("ending", ["", "_mask", "_labels", "_L"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_data_and_convert_data_agree(tmp_path, layout, ending):
    write(tmp_path, LAYOUTS[layout], ending)
    checked = {entry.file: entry.mask for split in read_folder(tmp_path) for entry in split.entries}
    dataset = read_masks(tmp_path, Losses(), ("even", "odd"))
    read = {record.path: record.label_map.path for records in dataset.splits.values() for record in records}
    assert read == checked
    assert len(read) == 2 * len(LAYOUTS[layout])
    assert all(mask.is_file() for mask in checked.values())


def test_new_config_takes_masks_with_an_ending(tmp_path, capsys):
    write(tmp_path, [("images", "masks")], "_mask")
    folders = (str(tmp_path / "images"), str(tmp_path / "masks"))
    config = tmp_path / "my.py"
    assert main(["new-config", "--masks", *folders, "--classes", "even", "odd", "--output", str(config)]) == 0
    assert "_mask.png" in config.read_text()
