"""A folder with one of each common mistake, and a config that trains on it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from hybrid_dense.data.scenes import write_scenes

PROJECT = Path(__file__).parents[2]
TRUNCATED, EMPTY, PNG_NAMED_JPG, NAN_BOX, UNKNOWN_CLASS, ORIGINAL, DUPLICATE = (
    f"{number:06d}.jpg" for number in range(1, 8)
)


def write_broken(root: Path, images: int = 16) -> Path:
    """Scenes in the COCO layout; the training images named above have a mistake each."""
    write_scenes(root, train=images, val=2, size=64, seed=0)
    folder = root / "train"
    whole = (folder / TRUNCATED).read_bytes()
    (folder / TRUNCATED).write_bytes(whole[: len(whole) // 2])
    (folder / EMPTY).write_bytes(b"")
    pixels = cv2.imread(str(folder / PNG_NAMED_JPG))
    (folder / PNG_NAMED_JPG).write_bytes(cv2.imencode(".png", pixels)[1])
    shutil.copy(folder / ORIGINAL, folder / DUPLICATE)

    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 7, "name": "hexagon", "supercategory": "shape"})
    first_of(content, NAN_BOX)["bbox"][2] = float("nan")
    first_of(content, UNKNOWN_CLASS)["category_id"] = 7
    file.write_text(json.dumps(content))
    return root


def first_of(content: dict, name: str) -> dict:
    """The first annotation of an image."""
    image_id = next(image["id"] for image in content["images"] if image["file_name"] == name)
    return next(annotation for annotation in content["annotations"] if annotation["image_id"] == image_id)


def write_config(path: Path, root: Path, **options) -> Path:
    """The demo's config on the folder; ``options`` are set as --cfg-options sets them."""
    cfg = Config.fromfile(PROJECT / "configs/demo.py")
    cfg.pop("scenes")
    cfg.data_root = f"{root}/"
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.dataset.data_root = f"{root}/"
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/annotations/instances_val.json"
    cfg.train_cfg.update(max_epochs=1, val_interval=10)
    cfg.merge_from_dict(options)
    cfg.dump(path)
    return path


def write_png16(path: Path, side: int = 64) -> Path:
    cv2.imwrite(str(path), np.full((side, side), 40_000, np.uint16))
    return path
