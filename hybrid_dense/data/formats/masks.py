"""Folders of label maps: an image and a PNG of the same name with one class number a pixel, as mmseg reads them.

images/<split>/a.jpg   masks/<split>/a.png   categories.json        as written here
train/a.jpg            trainannot/a.png                             (CamVid; also …_labels, …_masks, …annot)
images/training/a.jpg  annotations/training/a.png                   (ADE20K)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hybrid_dense.data.formats.copying import copy_image
from hybrid_dense.data.formats.model import (
    Category,
    DataSet,
    ImageRecord,
    LabelMap,
    Losses,
    image_size,
)
from hybrid_dense.data.formats.palette import save_palette_png
from hybrid_dense.data.formats.segmentation import decode
from hybrid_dense.data.formats.sidecar import NAME, read_sidecar, write_sidecar
from hybrid_dense.data.image_folders import find_mask_folders, image_files, mask_name, masks_by_name, name_in

UNLABELLED = 255


def read_masks(folder: Path, losses: Losses, classes: Sequence[str] = ()) -> DataSet:
    """A folder in one of the layouts above; ``classes`` name the numbers 0, 1, …, by default `categories.json` does.

    Raises:
        FileNotFoundError: no images beside label maps.
        ValueError: nothing names the classes, or a label map cannot be read.
    """
    known = read_sidecar(folder)
    if not classes and known is None:
        raise ValueError(f"{folder} has no {NAME}; name the classes, in the order of their numbers: --classes a b c")
    values = {Category(i, name): i for i, name in enumerate(classes)} if classes else known[0]
    seen: Counter[int] = Counter()
    dataset = read_mask_folders(find_pairs(folder), values, losses, seen)
    if dataset.unlabelled == UNLABELLED:  # else a single number that is no class, and it is kept
        for value in of_no_class(seen, values):
            what = f"pixels with the number {value}, which is no class, become {UNLABELLED}"
            losses.add(what, "all label maps", seen[value])
    return dataset if classes or known[1] is None else replace(dataset, unlabelled=known[1])


def class_names(words: Sequence[str]) -> tuple[str, ...]:
    """``--classes``: names, or one file with a name a line.

    Raises:
        ValueError: a name twice.
    """
    if len(words) == 1 and Path(words[0]).is_file():
        words = [line.strip() for line in Path(words[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
    twice = [name for position, name in enumerate(words) if name in words[:position]]
    if twice:
        raise ValueError(f"class {twice[0]!r} is named twice")
    return tuple(words)


def find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of label maps of every split; those of no split are called train."""
    pairs = find_mask_folders(folder)
    if not pairs:
        raise FileNotFoundError(f"{folder} has neither images/ beside masks/ nor, say, train/ beside trainannot/")
    return {"train" if split == "all" else split: pair for split, pair in pairs.items()}


def of_no_class(seen: Counter[int], values: dict[Category, int]) -> list[int]:
    """The numbers among those that label maps hold which no class has, without 255, which never is one's."""
    return sorted(set(seen) - set(values.values()) - {UNLABELLED})


def read_mask_folders(
    pairs: dict[str, tuple[Path, Path]], values: dict[Category, int], losses: Losses, seen: Counter[int]
) -> DataSet:
    """The data set of (folder of images, folder of label maps) by split; every label map is opened once.

    ``seen`` is filled with the pixels of each number.

    ``values`` gives each class its number, which also becomes its id. Where a single other number occurs, it stands
    for "of no class" (`DataSet.unlabelled`); several become 255. The numbers 0 and 255 of a mask of two classes are
    both classes.
    """
    records: dict[str, list[ImageRecord]] = {}
    ids = {value: value for value in values.values()}
    categories = tuple(Category(value, category.name, category.supercategory) for category, value in values.items())
    for split, (images, masks) in pairs.items():
        records[split] = []
        for image, mask in match(images, masks, losses):
            size = image_size(image)
            label_map = LabelMap(mask, ids)
            numbers = label_map.values()
            if numbers.shape != size:
                losses.add("images with a label map of another size were left out", str(mask))
                continue
            counts = np.bincount(numbers.ravel())
            seen.update({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
            name = image.relative_to(images).as_posix()
            records[split].append(ImageRecord(len(records[split]) + 1, name, image, *size, label_map=label_map))
    if set(seen) == {0, 255} and set(ids) == {0, 1}:
        ids = {0: 0, 255: 1}
        splits = {
            split: tuple(replace(record, label_map=LabelMap(record.label_map.path, ids)) for record in mine)
            for split, mine in records.items()
        }
        return DataSet(categories, splits, UNLABELLED)
    others = sorted(set(seen) - set(ids))
    unlabelled = others[0] if len(others) == 1 else UNLABELLED
    if unlabelled in ids:
        raise ValueError(
            f"number {unlabelled} is a class and also what pixels of no class would get; use fewer classes"
        )
    return DataSet(categories, {split: tuple(mine) for split, mine in records.items()}, unlabelled)


def match(images: Path, masks: Path, losses: Losses) -> list[tuple[Path, Path]]:
    """Images with their label maps, by name.

    Raises:
        FileNotFoundError: a folder is missing, or no image has a label map.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    by_name = masks_by_name(masks)
    pairs = []
    for image in image_files(images):
        mask = mask_name(name_in(image, images), by_name)
        if mask is None:
            losses.add("images without a label map were left out", str(image))
        else:
            pairs.append((image, by_name[mask]))
    if not pairs:
        raise FileNotFoundError(f"no image in {images} has a label map of the same name in {masks}")
    return pairs


def write_masks(dataset: DataSet, target: Path, losses: Losses, link: bool = False) -> None:
    """Write ``images/<split>/``, ``masks/<split>/`` and ``categories.json``."""
    values, unlabelled = mask_values(dataset)
    target.mkdir(parents=True, exist_ok=True)
    write_sidecar(target, values, unlabelled)
    for split, records in dataset.splits.items():
        for record in records:
            copy_image(record.path, target / "images" / split / record.file_name, link)
            path = (target / "masks" / split / record.file_name).with_suffix(".png")
            save_palette_png(draw(record, values, unlabelled, dataset.unlabelled, losses), path)


def mask_values(dataset: DataSet) -> tuple[dict[Category, int], int]:
    """Every class with its number, and the number of pixels of no class.

    Raises:
        ValueError: more classes than a PNG of 8 bits has numbers.
    """
    if dataset.unlabelled is not None:
        values = {category: category.id for category in dataset.categories}
        unlabelled = dataset.unlabelled
    else:
        others = [category for category in dataset.categories if category.name != "background"]
        # Behind it in the order, a category with the id 0 of its own is not mistaken for it.
        background = next((c for c in dataset.categories if c.name == "background"), Category(0, "background"))
        values = {category: number for number, category in enumerate([background, *others])}
        unlabelled = UNLABELLED
    worst = max([*values.values(), unlabelled], default=0)
    if worst > 255 or unlabelled in values.values() or min(values.values(), default=0) < 0:
        raise ValueError(f"class number {worst} does not fit into a label map of 8 bits; use at most 255 classes")
    return values, unlabelled


def draw(
    record: ImageRecord, values: dict[Category, int], unlabelled: int, rest: int | None, losses: Losses
) -> np.ndarray:
    """The label map of an image, uint8 (h, w): its own, or its instances painted from the largest to the smallest."""
    numbers = {category.id: value for category, value in values.items()}
    if record.label_map is not None:
        losses.add("objects became pixels of their class", record.file_name, len(record.instances))
        return record.label_map.numbered(numbers, 0 if rest is None else rest, unlabelled)
    canvas = np.full((record.height, record.width), 0 if rest is None else rest, np.uint8)
    painted = np.zeros(canvas.shape, bool)
    masks = []
    for instance in record.instances:
        if instance.segmentation is None:
            losses.add("boxes without a mask were left out", record.file_name)
        else:
            masks.append((decode(instance.segmentation, record.height, record.width), instance))
    for mask, instance in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        number = numbers[instance.category_id]
        hidden = int((mask & painted & (canvas != number)).sum())
        losses.add("pixels of two classes show the smaller object", record.file_name, hidden)
        canvas[mask] = number
        painted |= mask
    if rest is None:
        losses.add("objects became pixels of their class", record.file_name, len(masks))
    return canvas
