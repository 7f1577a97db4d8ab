"""Writing PASCAL VOC's layout, which `hybrid_dense.data.formats.voc` describes and reads."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hybrid_dense.data.formats.copying import copy_image
from hybrid_dense.data.formats.model import Category, DataSet, ImageRecord, Losses
from hybrid_dense.data.formats.palette import save_palette_png
from hybrid_dense.data.formats.segmentation import decode
from hybrid_dense.data.formats.sidecar import write_sidecar

VOID_VALUE = 255
MOST_OBJECTS = 254


def write_voc(dataset: DataSet, target: Path, losses: Losses, link: bool = False) -> None:
    """Write the folder ``target`` in VOC's layout, boxes rounded to whole pixels.

    Two splits that name different images alike get a folder each in ``JPEGImages`` and ``Annotations``.

    Raises:
        ValueError: two images of a split differ only in their suffix, or more classes than a PNG has numbers.
    """
    values = _numbered(dataset)
    write_folder = target / "ImageSets"
    (write_folder / "Main").mkdir(parents=True, exist_ok=True)
    write_sidecar(target, values, dataset.unlabelled)
    clashes = _clashing_names(dataset)
    # What no mask covers: background, or void where the data set says that it is simply not labelled.
    rest = 0 if dataset.unlabelled is None else VOID_VALUE
    names: dict[str, list[str]] = {}
    segmented: dict[str, list[str]] = {}
    for split, records in dataset.splits.items():
        names[split], segmented[split], taken = [], [], set()
        for record in records:
            stem = Path(record.file_name).with_suffix("").as_posix()
            folder = f"{split}/" if stem in clashes else ""
            name = folder + stem
            if name in taken:
                raise ValueError(f"split {split} has two images named {stem!r}; VOC tells images apart by name only")
            copy_image(record.path, target / "JPEGImages" / f"{folder}{record.file_name}", link)
            _write_record(target, name, record, values, rest, losses)
            taken.add(name)
            names[split].append(name)
            if record.label_map is not None or any(one.segmentation is not None for one in record.instances):
                segmented[split].append(name)
    _write_lists(write_folder / "Main", names)
    if any(segmented.values()):
        (write_folder / "Segmentation").mkdir(exist_ok=True)
        _write_lists(write_folder / "Segmentation", segmented)


def _write_lists(folder: Path, names: Mapping[str, list[str]]) -> None:
    lists = dict(names)
    if "train" in lists and "val" in lists:
        lists.setdefault("trainval", sorted({*lists["train"], *lists["val"]}))
    for split, mine in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in mine), encoding="utf-8")


def _clashing_names(dataset: DataSet) -> set[str]:
    """Names that stand for different images in different splits."""
    seen: dict[str, Path] = {}
    clashes = set()
    for records in dataset.splits.values():
        for record in records:
            stem = Path(record.file_name).with_suffix("").as_posix()
            if seen.setdefault(stem, record.path) != record.path:
                clashes.add(stem)
    return clashes


def _numbered(dataset: DataSet) -> dict[Category, int]:
    """Every class with its number in SegmentationClass: background 0, the others from 1."""
    others = [category for category in dataset.categories if category.name != "background"]
    if len(others) > MOST_OBJECTS:
        raise ValueError(f"{len(others)} classes do not fit into VOC's label maps, which number {MOST_OBJECTS} at most")
    numbers = {category.name: number for number, category in enumerate(others, 1)}
    return {category: numbers.get(category.name, 0) for category in dataset.categories}


def _write_record(
    target: Path, name: str, record: ImageRecord, values: Mapping[Category, int], rest: int, losses: Losses
) -> None:
    names = {category.id: category.name for category in values}
    root = ElementTree.Element("annotation")
    _texts(root, folder="JPEGImages", filename=Path(record.file_name).name, id=record.id)
    _texts(ElementTree.SubElement(root, "size"), width=record.width, height=record.height, depth=3)
    _texts(root, segmented=int(any(one.segmentation is not None for one in record.instances)))
    for instance in record.instances:
        element = ElementTree.SubElement(root, "object")
        _texts(
            element,
            name=names[instance.category_id],
            pose="Unspecified",
            truncated=int(instance.truncated),
            difficult=int(instance.difficult or instance.crowd),
        )
        box = _whole_pixels(instance.box)
        if box != _corners(instance.box):
            losses.add("boxes rounded to whole pixels", f"{name}.xml")
        keys = ("xmin", "ymin", "xmax", "ymax")
        _texts(ElementTree.SubElement(element, "bndbox"), **dict(zip(keys, box, strict=True)))
        if instance.crowd:
            _texts(element, crowd=1)
        if instance.id is not None:
            _texts(element, id=instance.id)
        if instance.area is not None:
            _texts(element, area=instance.area)
        if instance.segmentation is not None:
            _texts(element, segmentation=json.dumps(instance.segmentation, separators=(",", ":")))
    ElementTree.indent(root, "\t")
    path = target / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")
    _write_label_maps(target, name, record, values, rest, losses)


def _texts(parent: ElementTree.Element, **values) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _corners(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    x, y, width, height = box
    return x + 1, y + 1, x + width, y + height


def _whole_pixels(box: tuple[float, float, float, float]) -> tuple[int, ...]:
    """First and last pixel, counted from 1; a box with some size keeps a pixel at least."""
    first_x, first_y, last_x, last_y = (round(value) for value in _corners(box))
    if box[2] > 0:
        last_x = max(first_x, last_x)
    if box[3] > 0:
        last_y = max(first_y, last_y)
    return first_x, first_y, last_x, last_y


def _write_label_maps(
    target: Path, name: str, record: ImageRecord, values: Mapping[Category, int], rest: int, losses: Losses
) -> None:
    """SegmentationObject from the instances, a later one over an earlier; SegmentationClass likewise or as it was."""
    numbers = {category.id: value for category, value in values.items()}
    class_map = None
    if record.label_map is not None:
        class_map = record.label_map.numbered(numbers, 0, VOID_VALUE)
    if any(instance.segmentation is not None for instance in record.instances):
        object_map = np.zeros((record.height, record.width), np.uint8)
        drawn = np.full_like(object_map, rest)
        for number, instance in enumerate(record.instances, 1):
            if instance.segmentation is None:
                continue
            mask = decode(instance.segmentation, record.height, record.width)
            hidden = int((mask & (object_map > 0)).sum())
            losses.add("pixels of two objects: the PNG shows the later one, the XML keeps both", name, hidden)
            if number > MOST_OBJECTS:
                losses.add("objects beyond 254 are in the XML, not in the PNG", name)
                continue
            object_map[mask] = number
            drawn[mask] = numbers[instance.category_id]
        save_palette_png(object_map, target / "SegmentationObject" / f"{name}.png")
        class_map = drawn if class_map is None else class_map
    if class_map is not None:
        save_palette_png(class_map, target / "SegmentationClass" / f"{name}.png")
