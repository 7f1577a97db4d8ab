"""Checks of the boxes and polygons of one image."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hybrid_dense.data.checks.files import Case
from hybrid_dense.data.checks.records import Box, Problem

TOLERANCE = 1.0  # pixels: half the tools count from 0, half from 1


def box_missing(case: Case) -> Iterator[Problem]:
    for box in case.entry.boxes:
        if box.corners is None:
            yield _problem(case, box, "has no four numbers for a box")


def box_not_finite(case: Case) -> Iterator[Problem]:
    for box in case.entry.boxes:
        if box.corners and not _finite(box):
            yield _problem(case, box, f"has a box of {_numbers(box)}")


def box_empty(case: Case) -> Iterator[Problem]:
    for box in _measurable(case):
        width, height = _sides(box)
        if width <= 0 or height <= 0:
            yield _problem(case, box, f"has a box of width {width:g} and height {height:g}: {_numbers(box)}")


def box_tiny(case: Case) -> Iterator[Problem]:
    for box in _measurable(case):
        width, height = _sides(box)
        if min(width, height) > 0 and (min(width, height) < 1 or box.area == 0):
            yield _problem(case, box, f"is under a pixel: width {width:g}, height {height:g}, area {box.area}")


def box_outside(case: Case) -> Iterator[Problem]:
    for box in _measurable(case):
        if _share_inside(case, box) == 0:
            yield _problem(case, box, f"lies outside the image of {_image(case)}: {_numbers(box)}")


def box_over_edge(case: Case) -> Iterator[Problem]:
    size = case.look.size or case.entry.size
    for box in _measurable(case):
        x0, y0, x1, y1 = box.corners
        over = size and max(-x0, -y0, x1 - size[0], y1 - size[1])
        if over and over > TOLERANCE and _share_inside(case, box) != 0:
            yield _problem(case, box, f"reaches {over:g} px beyond the image of {_image(case)}: {_numbers(box)}")


def box_double(case: Case) -> Iterator[Problem]:
    seen: dict[tuple, str] = {}
    for box in case.entry.boxes:
        if box.corners is None or not _finite(box):
            continue
        first = seen.setdefault((box.category, box.corners), box.id)
        if first != box.id:
            yield _problem(case, box, f"repeats box {first}: same class, same corners")


def polygon_broken(case: Case) -> Iterator[Problem]:
    for box in case.entry.boxes:
        if box.polygons is not None and max(box.polygons) < 3:
            yield _problem(case, box, "has no polygon of three corners or more")


def _problem(case: Case, box: Box, said: str) -> Problem:
    return Problem(case.entry.file, f"{box.name or f'category {box.category}'} {box.id} {said}", box.id, box.corners)


def _finite(box: Box) -> bool:
    return all(map(math.isfinite, box.corners))


def _measurable(case: Case) -> Iterator[Box]:
    return (box for box in case.entry.boxes if box.corners is not None and _finite(box))


def _sides(box: Box) -> tuple[float, float]:
    x0, y0, x1, y1 = box.corners
    return x1 - x0, y1 - y0


def _share_inside(case: Case, box: Box) -> float | None:
    """The share of a box that lies in its image; None where the image's size is unknown or the box has no area."""
    size = case.look.size or case.entry.size
    width, height = _sides(box)
    if size is None or width <= 0 or height <= 0:
        return None
    x0, y0, x1, y1 = box.corners
    inside = max(0.0, min(x1, size[0]) - max(x0, 0.0)) * max(0.0, min(y1, size[1]) - max(y0, 0.0))
    return inside / (width * height)


def _numbers(box: Box) -> str:
    x0, y0, x1, y1 = box.corners
    return f"x {x0:g}…{x1:g}, y {y0:g}…{y1:g}"


def _image(case: Case) -> str:
    width, height = case.look.size or case.entry.size
    return f"{width}×{height}"
