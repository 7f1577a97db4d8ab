"""Read a COCO annotation file leniently: what mmdet would drop or stumble over is kept for the checks."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from hybrid_dense.data.checks.records import Box, Entry, Problem, Split

PARTS = ("images", "annotations", "categories")


def read_coco(name: str, file: Path, images: Path, classes: tuple[str, ...] = (), masks: bool = False) -> Split:
    """The split of a COCO instances or panoptic file.

    Args:
        name: the split's name.
        file: the annotation file.
        images: the folder that ``file_name`` is relative to.
        classes: those of the config; by default the categories of the file.
        masks: whether the training needs a mask for each object.
    """
    try:
        content = read_json(file)
    except ValueError as error:
        return Split(name, file, unreadable=(Problem(file, str(error)),))
    unreadable = []
    names = {}
    for category in content["categories"]:
        if isinstance(category, dict) and {"id", "name"} <= set(category):
            names[str(category["id"])] = str(category["name"])
        else:
            unreadable.append(Problem(file, f"category {category!r:.80} has no id or no name"))
    objects, orphans, box_ids = defaultdict(list), [], []
    known = {str(image.get("id")) for image in content["images"] if isinstance(image, dict)}
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict) or "image_id" not in annotation:
            unreadable.append(Problem(file, f"annotation {annotation!r:.80} has no image_id"))
            continue
        image_id = str(annotation["image_id"])
        for segment in annotation.get("segments_info", [annotation]):
            missing = [key for key in ("id", "category_id", "bbox", "area") if key not in segment]
            if masks and "segments_info" not in annotation and not segment.get("segmentation"):
                missing.append("segmentation")
            box = read_box(segment, names)
            if missing:
                said = f"annotation {box.id} of image {image_id} has no {', '.join(missing)}"
                unreadable.append(Problem(file, said, box.id))
            if image_id not in known:
                orphans.append(
                    Problem(file, f"annotation {box.id} is of image {image_id}, which is not listed", box.id)
                )
            objects[image_id].append(box)
        box_ids.append(str(annotation.get("id", f"panoptic {image_id}")))
    entries = []
    for image in content["images"]:
        try:
            image_id, path = str(image["id"]), images / image["file_name"]
            size = int(image["width"]), int(image["height"])
        except (KeyError, TypeError, ValueError):
            unreadable.append(Problem(file, f"image {image!r:.80} lacks one of id, file_name, width, height"))
            continue
        entries.append(Entry(image_id, path, size, tuple(objects.get(image_id, ())), annotation=file))
    return Split(
        name,
        file,
        tuple(entries),
        classes=classes or tuple(names.values()),
        categories=tuple(names.values()),
        unreadable=tuple(unreadable),
        orphans=tuple(orphans),
        image_ids=tuple(str(image.get("id")) for image in content["images"] if isinstance(image, dict)),
        box_ids=tuple(box_ids),
    )


def read_json(file: Path) -> dict:
    """The content of a COCO file.

    Raises:
        ValueError: it cannot be read, is no JSON, or is not in the COCO format.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not JSON: not in UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    missing = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), list)]
    if missing:
        raise ValueError(f"is not a COCO annotation file: it has no list of {', '.join(missing)}")
    return content


def read_box(annotation: dict, names: dict[str, str]) -> Box:
    """One annotation; ``names`` gives each category id its name."""
    category = str(annotation.get("category_id"))
    shape = annotation.get("segmentation")
    mask_size = polygons = None
    if isinstance(shape, dict) and isinstance(shape.get("size"), list) and len(shape["size"]) == 2:
        mask_size = (shape["size"][1], shape["size"][0])
    elif isinstance(shape, list) and shape:
        polygons = tuple(len(part) // 2 if isinstance(part, list) else 0 for part in shape)
    area = annotation.get("area")
    return Box(
        str(annotation.get("id")),
        names.get(category),
        category,
        corners(annotation.get("bbox")),
        area if isinstance(area, (int, float)) else None,
        mask_size,
        polygons,
    )


def corners(bbox) -> tuple[float, float, float, float] | None:
    """COCO's x, y, width, height as x0, y0, x1, y1; None where these are not four numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        return None
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height
