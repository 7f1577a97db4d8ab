"""The splits of a folder without a config: COCO, PASCAL VOC or images with masks, told by what is there."""

from __future__ import annotations

import re
from pathlib import Path

from hybrid_dense.data.checks.read_coco import PARTS, read_coco, read_json
from hybrid_dense.data.checks.read_masks import read_masks
from hybrid_dense.data.checks.read_voc import read_voc
from hybrid_dense.data.checks.records import Problem, Split
from hybrid_dense.data.image_folders import IMAGE_FOLDERS, IMAGE_SUFFIXES, find_mask_folders

LAYOUTS = "COCO (*.json or annotations/*.json), VOC (Annotations/*.xml) or images with masks (images/ and masks/)"


def read_folder(folder: Path) -> list[Split]:
    """Every split that the folder holds.

    Raises:
        ValueError: nothing here is a data set.
    """
    for read in (read_voc_folder, read_coco_folder, read_mask_folder):
        splits = read(folder)
        if splits:
            return splits
    raise ValueError(f"{folder} holds no data set: looked for {LAYOUTS}")


def read_coco_folder(folder: Path) -> list[Split]:
    splits = []
    for file in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
        name = re.sub(r"^(instances|panoptic|annotations)_|\d{4}$", "", file.stem) or file.stem
        try:
            content = read_json(file)
        except ValueError as error:
            # Other files lie beside annotations: only what calls itself one, or cannot be JSON, is a finding.
            if file.parent != folder or "not JSON" in str(error) or "read" in str(error):
                splits.append(Split(name, file, unreadable=(Problem(file, str(error)),)))
            continue
        splits.append(read_coco(name, file, image_folder(folder, file, name, content)))
    return splits


def image_folder(folder: Path, file: Path, name: str, content: dict) -> Path:
    """The folder in which most of the first images of a COCO file lie."""
    year = re.search(r"\d{4}$", file.stem)
    candidates = [folder / f"{name}{year[0] if year else ''}", folder / name, folder / "images" / name]
    candidates += [folder / images for images in IMAGE_FOLDERS] + [folder, file.parent]
    names = [str(image.get("file_name")) for image in content[PARTS[0]][:50] if isinstance(image, dict)]
    return max(candidates, key=lambda place: sum((place / image).is_file() for image in names))


def read_voc_folder(folder: Path) -> list[Split]:
    if not any(folder.glob("Annotations/*.xml")):
        years = sorted(folder.glob("VOC*/Annotations"))
        return [split for year in years for split in read_voc_folder(year.parent)]
    suffixes = tuple(dict.fromkeys(suffix for known in IMAGE_SUFFIXES for suffix in (known, known.upper())))
    places = folder / "JPEGImages", folder / "Annotations"
    splits = []
    for name in ("train", "val", "test"):  # trainval is their sum
        listed = folder / f"ImageSets/Main/{name}.txt"
        if listed.is_file():
            ids = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
            splits.append(read_voc(name, listed, ids, *places, suffixes=suffixes))
    if splits:
        return splits
    ids = sorted(path.stem for path in places[1].glob("*.xml"))
    return [read_voc("all", places[1], ids, *places, suffixes=suffixes)]


def read_mask_folder(folder: Path) -> list[Split]:
    splits = [read_masks(name, *folders) for name, folders in find_mask_folders(folder).items()]
    return [split for split in splits if split.entries]
