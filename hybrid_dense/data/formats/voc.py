"""PASCAL VOC: one XML an image (Everingham et al. 2010; the development kit of VOC2012, section 5).

    JPEGImages/<name>.jpg   Annotations/<name>.xml   ImageSets/Main/<split>.txt   ImageSets/Segmentation/<split>.txt
    SegmentationObject/<name>.png    n-th object of the XML: number n; 0 is background, 255 is void
    SegmentationClass/<name>.png     n-th class: number n

A VOC box names its first and last pixel, counted from 1; here the first pixel is 0 and a box has a width, so
``xmin = x + 1`` and ``xmax = x + width``.

VOC's readers pass over elements that they do not know. Those written here keep what VOC has no place for: ``id``,
``area``, ``crowd``, and ``segmentation`` with COCO's polygons or run lengths, as objects that overlap do not fit into
one PNG.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hybrid_dense.data.formats.coco import keep_sound
from hybrid_dense.data.formats.model import (
    BACKGROUND,
    Category,
    DataSet,
    ImageRecord,
    Instance,
    LabelMap,
    Losses,
    image_size,
    read_label_values,
)
from hybrid_dense.data.formats.segmentation import encode
from hybrid_dense.data.formats.sidecar import NAME, read_sidecar
from hybrid_dense.data.image_folders import IMAGE_SUFFIXES

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
OBJECT_FIELDS = {"id", "name", "bndbox", "difficult", "truncated", "crowd", "segmentation", "area", "pose"}


def read_voc(folder: Path, losses: Losses, listing: str = "Main") -> DataSet:
    """A folder in VOC's layout; ``listing`` is the folder of ImageSets that says which images there are.

    Without lists all images are of the split ``train``.

    Raises:
        FileNotFoundError: no VOC layout, or a list of images without their files.
    """
    if not (folder / "Annotations").is_dir() or not (folder / "JPEGImages").is_dir():
        inside = sorted(child.parent.name for child in folder.glob("*/Annotations")) if folder.is_dir() else []
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise FileNotFoundError(f"{folder} is not in VOC's layout: it needs JPEGImages/ and Annotations/{hint}")
    images = {
        path.relative_to(folder / "JPEGImages").with_suffix("").as_posix(): path
        for path in sorted((folder / "JPEGImages").rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    splits = read_splits(folder, listing) or {"train": [n for n in images if _annotation(folder, n).is_file()]}
    trees = {}
    for name in sorted({name for names in splits.values() for name in names}):
        tree = _parse(folder, name, images, losses)
        if tree is not None:
            trees[name] = tree
    values, unlabelled = read_classes(folder, trees.values())
    ids = {category.name: category.id for category in values}
    shown = {value: category.id for category, value in values.items()}
    shown.setdefault(0, BACKGROUND)
    records = {
        name: _record(folder, name, images[name], tree, ids, shown, position + 1, losses)
        for position, (name, tree) in enumerate(trees.items())
    }
    kept = {}
    for split, names in splits.items():
        mine = [_within(records[name], split) for name in names if name in records]
        if len({record.id for record in mine}) < len(mine):
            mine = [replace(record, id=position + 1) for position, record in enumerate(mine)]
        kept[split] = tuple(mine)
    return DataSet(tuple(values), kept, unlabelled)


def read_classes(folder: Path, trees: Iterable[ElementTree.Element]) -> tuple[dict[Category, int], int | None]:
    """The classes with their numbers in SegmentationClass, and the number for "of no class" where the list has one.

    Without a list they are the names found, sorted; VOC's own twenty, all of them, where label maps number them.

    Raises:
        ValueError: there are label maps, and nothing says which number is which class.
    """
    found = {(element.findtext("name") or "").strip() for tree in trees for element in tree.iter("object")} - {""}
    values, unlabelled = read_sidecar(folder) or ({}, None)
    if not values and (folder / "SegmentationClass").is_dir():
        if not found <= set(VOC_CLASSES):
            strange = min(found - set(VOC_CLASSES))
            raise ValueError(
                f"{folder / 'SegmentationClass'} numbers the classes, but {strange!r} is none of VOC's twenty; "
                f"write which number is which class to {folder / NAME}, as docs/data.md shows"
            )
        found = set(VOC_CLASSES)
    new = sorted(found - {category.name for category in values})
    # A list of classes may count from 0 (label maps) or have gaps (COCO): go on behind it.
    first_id = 1 + max((category.id for category in values), default=0)
    first_value = 1 + max(values.values(), default=0)
    values |= {Category(first_id + i, name): first_value + i for i, name in enumerate(new)}
    return values, unlabelled


def read_splits(folder: Path, listing: str) -> dict[str, list[str]]:
    """Names of the images of every split; ``trainval`` is left out where it is train and val and no more."""
    splits = {}
    for file in sorted((folder / "ImageSets" / listing).glob("*.txt")):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        # <class>_<split>.txt has a second column: 1, 0 or -1.
        if not any(line.split()[-1] in ("1", "-1", "0") and len(line.split()) == 2 for line in lines):
            splits[file.stem] = lines
    if set(splits.get("trainval", ())) == {*splits.get("train", ()), *splits.get("val", ())} and "train" in splits:
        del splits["trainval"]
    return splits


def _annotation(folder: Path, name: str) -> Path:
    return folder / "Annotations" / f"{name}.xml"


def _parse(folder: Path, name: str, images: Mapping[str, Path], losses: Losses) -> ElementTree.Element | None:
    path = _annotation(folder, name)
    if name not in images:
        losses.add("images are not there and were left out", str(folder / "JPEGImages" / name))
        return None
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeDecodeError):
        losses.add("images with an empty, broken or missing XML were left out", str(path))
        return None


def _record(
    folder: Path,
    name: str,
    image: Path,
    tree: ElementTree.Element,
    ids: Mapping[str, int],
    shown: Mapping[int, int],
    position: int,
    losses: Losses,
) -> ImageRecord:
    height, width = _number(tree, "size/height"), _number(tree, "size/width")
    if not height or not width:
        height, width = image_size(image)
    file_name = image.relative_to(folder / "JPEGImages").as_posix()
    class_map = folder / "SegmentationClass" / f"{name}.png"
    record = ImageRecord(
        id=int(_number(tree, "id") or position),
        file_name=file_name,
        path=image,
        height=int(height),
        width=int(width),
        label_map=LabelMap(class_map, shown) if class_map.is_file() else None,
    )
    object_map = folder / "SegmentationObject" / f"{name}.png"
    numbers = read_label_values(object_map) if object_map.is_file() else None
    if numbers is not None and numbers.shape != (record.height, record.width):
        losses.add("masks of another size than their image were left out", str(object_map))
        numbers = None
    instances = []
    for number, element in enumerate(tree.iter("object"), 1):
        instance = _instance(element, record, ids, str(_annotation(folder, name)), losses)
        if instance is None:
            continue
        if instance.segmentation is None and numbers is not None and (numbers == number).any():
            mask = numbers == number
            instance = replace(instance, segmentation=encode(mask))
        instances.append(instance)
    return replace(record, instances=tuple(instances))


def _instance(
    element: ElementTree.Element, record: ImageRecord, ids: Mapping[str, int], where: str, losses: Losses
) -> Instance | None:
    name = (element.findtext("name") or "").strip()
    if not name:
        losses.add("objects without a class name were left out", where)
        return None
    first_x, first_y, last_x, last_y = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    if None in (first_x, first_y, last_x, last_y):
        losses.add("objects without a box of four numbers were left out", where)
        return None
    for child in element:
        if child.tag not in OBJECT_FIELDS and (child.text or "").strip() != "0":
            losses.add_field(f"objects lose {child.tag!r}", where)
    if (element.findtext("pose") or "Unspecified") != "Unspecified":
        losses.add_field("objects lose 'pose'", where)
    crowd = bool(_number(element, "crowd"))
    number = _number(element, "id")
    return Instance(
        category_id=ids[name],
        box=(first_x - 1, first_y - 1, last_x - first_x + 1, last_y - first_y + 1),
        segmentation=_written_segmentation(element, record, where, losses),
        id=None if number is None else int(number),
        area=_number(element, "area"),
        crowd=crowd,
        difficult=bool(_number(element, "difficult")) and not crowd,
        truncated=bool(_number(element, "truncated")),
    )


def _written_segmentation(element: ElementTree.Element, record: ImageRecord, where: str, losses: Losses):
    text = element.findtext("segmentation")
    if not text:
        return None
    try:
        segmentation = json.loads(text)
    except json.JSONDecodeError:
        losses.add("segmentations left out: no JSON", where)
        return None
    return keep_sound(segmentation or None, record, where, losses)


def _number(element: ElementTree.Element, path: str) -> float | None:
    """The number at this path; None if there is none or no finite one."""
    try:
        value = float(element.findtext(path) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _within(record: ImageRecord, split: str) -> ImageRecord:
    """The same image, named as inside its split's folder."""
    return replace(record, file_name=record.file_name.removeprefix(f"{split}/"))
