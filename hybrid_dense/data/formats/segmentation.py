"""COCO's segmentations: polygons, run lengths as numbers, run lengths as text; and the masks they mean."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask


def decode(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask that a segmentation means: bool (h, w). Polygons are filled as pycocotools fills them."""
    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return coco_mask.decode(code).astype(bool)


def encode(mask: np.ndarray) -> dict:
    """A bool mask (h, w) as run lengths in text, ready for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, width, height) of the pixels that are set; zeros where none is."""
    return tuple(coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist())


def fault_of(segmentation, height: int, width: int) -> str | None:
    """Why this is no segmentation of an image (h, w); None if it is one."""
    if isinstance(segmentation, dict):
        return _fault_of_run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"a {type(segmentation).__name__}"
    for polygon in segmentation:
        # pycocotools takes four numbers for a box and fewer for nothing, without a word.
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "a polygon of fewer than three points"
        if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in polygon):
            return "a polygon with points that are no numbers"
    return None


def _fault_of_run_lengths(code: dict, height: int, width: int) -> str | None:
    if list(code.get("size") or ()) != [height, width]:
        return "run lengths of another image size"
    counts = code.get("counts")
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        return None if whole and sum(counts) == height * width else "run lengths that do not fill the image"
    if not isinstance(counts, str):
        return "run lengths without counts"
    return None if _length_of_text(counts) == height * width else "run lengths that do not fill the image"


def _length_of_text(counts: str) -> int | None:
    """How many pixels compressed run lengths cover (COCO's maskApi.c: 5 bits a character, runs as differences)."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return None
        runs.append(value)
        value = shift = 0
    return None if shift else sum(runs)
