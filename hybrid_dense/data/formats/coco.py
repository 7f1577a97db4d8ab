"""COCO instances: one JSON a split, images in folders (Lin et al. 2014; cocodataset.org, "data format").

    annotations/instances_<split>.json
    <split>/…                           its images

Beside COCO's fields an annotation may have ``difficult`` and ``truncated`` (from VOC), and ``info`` the number that
stands for "of no class" in label maps (`DataSet.unlabelled`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from hybrid_dense.data.formats.copying import copy_image
from hybrid_dense.data.formats.model import Category, DataSet, ImageRecord, Instance, Losses, image_size
from hybrid_dense.data.formats.segmentation import box_of, decode, encode, fault_of

PREFIX = "instances_"
IMAGE_FIELDS = {"id", "file_name", "height", "width"}
INSTANCE_FIELDS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "difficult", "truncated"}


def read_coco(source: Path, losses: Losses) -> DataSet:
    """A folder with ``annotations/*.json`` and images, or one such JSON.

    Raises:
        FileNotFoundError: no annotation file, or its images are nowhere near.
        ValueError: not COCO's format, or two files differ in their classes.
    """
    if source.is_file():
        files, root = [source], source.parent.parent if source.parent.name == "annotations" else source.parent
    else:
        root = source
        files = sorted((source / "annotations").glob(f"{PREFIX}*.json"))
        files = files or sorted((source / "annotations").glob("*.json")) or sorted(source.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{source} has no annotations/*.json")
    sets = {}
    for file in files:
        split = file.stem.removeprefix(PREFIX)
        sets[split] = read_coco_file(file, find_images(file, root, split), losses)
    first, *others = sets.items()
    for split, other in others:
        if other.categories != first[1].categories:
            raise ValueError(f"the categories of {split} are not those of {first[0]}; make the two files agree")
    splits = {split: images for split, dataset in sets.items() for images in dataset.splits.values()}
    return DataSet(first[1].categories, splits, first[1].unlabelled)


def find_images(file: Path, root: Path, split: str) -> Path:
    """The folder that holds the first image of an annotation file."""
    content = load_json(file)
    if not content["images"]:
        return root
    name = content["images"][0].get("file_name", "")
    places = [root / split, root / "images" / split, root / "images", root, file.parent]
    for place in places:
        if name and (place / name).is_file():
            return place
    raise FileNotFoundError(f"{name!r}, the first image of {file}, is in none of {', '.join(map(str, places))}")


def load_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        raise ValueError(f"{file} is not a COCO annotation file: it needs lists named images and categories")
    return content


def read_coco_file(file: Path, images: Path, losses: Losses) -> DataSet:
    """One annotation file with the folder of its images; the split is named after the file.

    What cannot be kept (images that are missing, annotations without a place, a class or numbers) goes to ``losses``.
    """
    content = load_json(file)
    categories = tuple(_category(raw, file) for raw in content["categories"])
    known = {category.id for category in categories}
    raw_instances: dict[int, list[dict]] = {}
    for raw in content.get("annotations") or []:
        raw_instances.setdefault(raw.get("image_id"), []).append(raw)
    records = []
    for raw in content["images"]:
        record = _image(raw, images, file, losses)
        found = raw_instances.pop(raw.get("id"), [])
        if record is not None:
            instances = [_instance(one, record, known, file, losses) for one in found]
            records.append(_with_instances(record, instances))
    for image_id, found in raw_instances.items():
        losses.add("annotations of an image that the file does not list", f"image {image_id} in {file}", len(found))
    unlabelled = (content.get("info") or {}).get("unlabelled") if isinstance(content.get("info"), dict) else None
    return DataSet(categories, {file.stem.removeprefix(PREFIX): tuple(records)}, unlabelled)


def is_complete(file: Path, dataset: DataSet) -> bool:
    """Whether a host reads from this file all that was read from it: nothing left out, and sizes and areas there."""
    content = load_json(file)
    annotations = content.get("annotations") or []
    records = [record for images in dataset.splits.values() for record in images]
    instances = [instance for record in records for instance in record.instances]
    return (
        len(records) == len(content["images"])
        and len(instances) == len(annotations)
        and sum(one.segmentation is not None for one in instances)
        == sum(bool(r.get("segmentation")) for r in annotations)
        and all(raw.get("height") and raw.get("width") for raw in content["images"])
        and all({"id", "bbox", "area"} <= raw.keys() for raw in annotations)
        and len({raw["id"] for raw in annotations}) == len(annotations)
    )


def _with_instances(record: ImageRecord, instances: list[Instance | None]) -> ImageRecord:
    kept = tuple(instance for instance in instances if instance is not None)
    return ImageRecord(record.id, record.file_name, record.path, record.height, record.width, kept)


def _category(raw: dict, file: Path) -> Category:
    if not isinstance(raw.get("id"), int) or not raw.get("name"):
        raise ValueError(f"{file} has a category without an id or a name: {raw}")
    return Category(raw["id"], str(raw["name"]), str(raw.get("supercategory") or ""))


def _image(raw: dict, images: Path, file: Path, losses: Losses) -> ImageRecord | None:
    if not isinstance(raw.get("id"), int) or not raw.get("file_name"):
        raise ValueError(f"{file} has an image without an id or a file_name: {str(raw)[:200]}")
    path = images / raw["file_name"]
    if not path.is_file():
        losses.add("images are not there and were left out", str(path))
        return None
    height, width = raw.get("height"), raw.get("width")
    if not height or not width:
        height, width = image_size(path)
    for key in raw.keys() - IMAGE_FIELDS:
        losses.add_field(f"images lose {key!r}", str(path))
    return ImageRecord(raw["id"], inside(raw["file_name"]), path, int(height), int(width))


def inside(file_name: str) -> str:
    """The name below its folder: some tools write absolute paths, and a hostile one could lead out of the target."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    return PurePosixPath(*(part for part in parts if part not in ("/", ".."))).as_posix()


def _instance(raw: dict, record: ImageRecord, known: set[int], file: Path, losses: Losses) -> Instance | None:
    where = f"annotation {raw.get('id')} in {file}"
    if raw.get("category_id") not in known:
        losses.add("annotations of a class that the file does not list were left out", where)
        return None
    segmentation = keep_sound(raw.get("segmentation") or None, record, where, losses)
    box = raw.get("bbox")
    if box is None and segmentation is not None:
        box = box_of(decode(segmentation, record.height, record.width))
    if not _is_box(box):
        losses.add("annotations without a box of four numbers were left out", where)
        return None
    for key in raw.keys() - INSTANCE_FIELDS:
        losses.add_field(f"annotations lose {key!r}", where)
    difficult = bool(raw.get("difficult"))
    return Instance(
        category_id=raw["category_id"],
        box=tuple(box),
        segmentation=segmentation,
        id=raw.get("id"),
        area=raw.get("area"),
        crowd=bool(raw.get("iscrowd")) and not difficult,
        difficult=difficult,
        truncated=bool(raw.get("truncated")),
    )


def keep_sound(segmentation, record: ImageRecord, where: str, losses: Losses) -> list | dict | None:
    """The segmentation without its faulty polygons; None where nothing is left."""
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    faults = [
        fault_of([part] if part is not segmentation else part, record.height, record.width)
        for part in parts
        if part is not None
    ]
    for fault in filter(None, faults):
        losses.add(f"segmentations left out: {fault}", where)
    if not isinstance(segmentation, list):
        return None if any(faults) else segmentation
    return [part for part, fault in zip(parts, faults, strict=True) if fault is None] or None


def _is_box(box) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in box)


def write_coco(dataset: DataSet, target: Path, losses: Losses, link: bool = False) -> None:
    """Write the folder ``target``: ``annotations/instances_<split>.json`` and ``<split>/`` with the images."""
    (target / "annotations").mkdir(parents=True, exist_ok=True)
    for split, records in dataset.splits.items():
        for record in records:
            copy_image(record.path, target / split / record.file_name, link)
            if record.label_map is not None and any(one.segmentation is None for one in record.instances):
                losses.add("label maps were left out, the objects beside them kept", record.file_name)
        write_coco_file(dataset, split, target / "annotations" / f"{PREFIX}{split}.json")


def write_coco_file(dataset: DataSet, split: str, file: Path) -> None:
    """Write one split's annotation file; a label map becomes one annotation a class, with run lengths."""
    records = dataset.splits[split]
    annotations = [raw for record in records for raw in _annotations(record)]
    ids = [raw["id"] for raw in annotations]
    if None in ids or len(set(ids)) < len(ids):
        for position, raw in enumerate(annotations):
            raw["id"] = position + 1
    content = {
        "info": {} if dataset.unlabelled is None else {"unlabelled": dataset.unlabelled},
        "licenses": [],
        "images": [
            {"id": record.id, "file_name": record.file_name, "width": record.width, "height": record.height}
            for record in records
        ],
        "annotations": annotations,
        "categories": [
            {"id": category.id, "name": category.name, "supercategory": category.supercategory}
            for category in dataset.categories
        ],
    }
    file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _annotations(record: ImageRecord) -> Iterator[dict]:
    for instance in record.instances or regions_of(record):
        x, y, width, height = instance.box
        raw = {
            "id": instance.id,
            "image_id": record.id,
            "category_id": instance.category_id,
            "bbox": [x, y, width, height],
            "area": _area(instance, record),
            # What VOC calls difficult counts neither way; COCO's evaluation knows that of crowds only.
            "iscrowd": int(instance.crowd or instance.difficult),
        }
        if instance.segmentation is not None:
            raw["segmentation"] = instance.segmentation
        raw |= {key: 1 for key in ("difficult", "truncated") if getattr(instance, key)}
        yield raw


def _area(instance: Instance, record: ImageRecord) -> float:
    if instance.area is not None:
        return instance.area
    if instance.segmentation is not None:
        return float(decode(instance.segmentation, record.height, record.width).sum())
    return instance.box[2] * instance.box[3]


def regions_of(record: ImageRecord) -> Iterator[Instance]:
    """What a label map says, one region a class: all pixels of the class in the image."""
    if record.label_map is None:
        return
    ids = record.label_map.read()
    for category_id in np.unique(ids[ids >= 0]).tolist():
        mask = ids == category_id
        yield Instance(category_id, box_of(mask), encode(mask), area=float(mask.sum()))
