"""What is in a split, in numbers: images, objects of each class, and sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid_dense.data.checks.files import Case

IMAGE_SIDES = (128, 256, 512, 768, 1024, 1536, 2048, 4096)
OBJECT_SIDES = (8, 16, 32, 64, 96, 192, 384)  # COCO's small ends at 32, its medium at 96


@dataclass(frozen=True)
class Survey:
    """Numbers of one split.

    Attributes:
        images, annotated, objects: how many; annotated images have an object or a mask.
        classes: class → objects, or pixels of a semantic data set; classes without any included.
        unit: what ``classes`` counts, "objects" or "pixels".
        image_sides: longer side in pixels → images.
        object_sides: square root of the box's area in pixels → objects.
    """

    split: str
    images: int
    annotated: int
    objects: int
    unit: str
    classes: dict[str, int] = field(default_factory=dict)
    image_sides: dict[str, int] = field(default_factory=dict)
    object_sides: dict[str, int] = field(default_factory=dict)


def survey(cases: Sequence[Case]) -> Survey:
    """The numbers of the cases of one split, of which there is at least one."""
    split = cases[0].split
    boxes = [box for case in cases for box in case.entry.boxes]
    sizes = [case.look.size or case.entry.size for case in cases]
    counts = Counter(box.name for box in boxes if box.name)
    if not split.has_boxes:
        for case in cases:
            for value, pixels in ((case.mask and case.mask.values) or {}).items():
                counts[(split.labels or {}).get(value, f"value {value}") or "ignored"] += pixels
    sides = (_side(box.corners) for box in boxes if box.corners)
    return Survey(
        split.name,
        len(cases),
        sum(bool(case.entry.boxes or case.mask) for case in cases),
        len(boxes),
        "objects" if split.has_boxes else "pixels",
        {**{name: counts.get(name, 0) for name in split.classes}, **counts},
        histogram([max(size) for size in sizes if size], IMAGE_SIDES),
        histogram([side for side in sides if side > 0], OBJECT_SIDES),
    )


def histogram(values: Sequence[float], edges: Sequence[int]) -> dict[str, int]:
    """How many values lie under each edge and from the edge before on; {} of nothing."""
    if not values:
        return {}
    names = [f"< {edges[0]}", *(f"{low}–{high}" for low, high in zip(edges, edges[1:], strict=False)), f"≥ {edges[-1]}"]
    counts = Counter(sum(value >= edge for edge in edges) for value in values)
    return {name: counts.get(index, 0) for index, name in enumerate(names)}


def _side(corners: tuple[float, float, float, float]) -> float:
    x0, y0, x1, y1 = corners
    area = max(0.0, x1 - x0) * max(0.0, y1 - y0)
    return math.sqrt(area) if math.isfinite(area) else 0.0
