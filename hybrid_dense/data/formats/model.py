"""What a data set is, whatever its files look like: classes, and splits of images with instances or a label map.

Pixels count from the upper left corner of the image, from 0; a box is (x, y, width, height) in pixels, as in COCO.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF: from 5 on, width and height are exchanged
BACKGROUND = -2
"""In a label map that was read: here is nothing of any class."""
VOID = -1
"""In a label map that was read: nobody says what is here."""


@dataclass(frozen=True)
class Category:
    """A class; ``id`` as the annotations name it, not its position."""

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class Instance:
    """One object.

    ``segmentation`` is what COCO's JSON holds: polygons ``[[x1, y1, …], …]`` or run lengths ``{"size", "counts"}``.
    ``crowd`` (COCO) and ``difficult`` (VOC) both mean that finding it or not counts neither way.
    """

    category_id: int
    box: tuple[float, float, float, float]
    segmentation: list | dict | None = None
    id: int | None = None
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class LabelMap:
    """A picture (h, w) with one number a pixel; ``ids`` says which category (or `BACKGROUND`) a number stands for."""

    path: Path
    ids: Mapping[int, int]

    def values(self) -> np.ndarray:
        """The numbers as they stand in the file, uint8 or int32 (h, w)."""
        return read_label_values(self.path)

    def read(self) -> np.ndarray:
        """Category ids, int32 (h, w); `VOID` where the number is of no category."""
        return self._look_up(self.ids, VOID, np.int32)

    def numbered(self, numbers: Mapping[int, int], background: int, void: int) -> np.ndarray:
        """The label map with other numbers, uint8 (h, w): those that ``numbers`` gives the categories."""
        table = {
            value: background if category_id == BACKGROUND else numbers.get(category_id, void)
            for value, category_id in self.ids.items()
        }
        return self._look_up(table, void, np.uint8)

    def _look_up(self, numbers: Mapping[int, int], otherwise: int, dtype: type) -> np.ndarray:
        values = self.values()
        table = np.full(int(values.max(initial=0)) + 1, otherwise, dtype)
        for value, number in numbers.items():
            if value < len(table):
                table[value] = number
        return table[values]


@dataclass(frozen=True)
class ImageRecord:
    """One image: where it lies, its name inside the split's folder, and what is known of it."""

    id: int
    file_name: str
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...] = ()
    label_map: LabelMap | None = None


@dataclass(frozen=True)
class DataSet:
    """Classes and splits.

    ``unlabelled`` is the number that stands for "of no class" in its label maps; where it is set, category ids are
    the numbers of the label maps. None: what is of no class is background, class 0 of a label map.
    """

    categories: tuple[Category, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]]
    unlabelled: int | None = None

    def __post_init__(self):
        ids = [category.id for category in self.categories]
        names = [category.name for category in self.categories]
        for what, values in (("id", ids), ("name", names)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"two categories have the {what} {twice[0]!r}; give each its own")


class Losses:
    """What a conversion could not keep: how often, and where first.

    Fields that the other side does not know are counted apart: they may matter to a converter, not to a training.
    """

    def __init__(self):
        self.things: dict[str, tuple[int, str]] = {}
        self.fields: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        if count:
            before, first = self.things.get(what, (0, where))
            self.things[what] = before + count, first

    def add_field(self, what: str, where: str) -> None:
        before, first = self.fields.get(what, (0, where))
        self.fields[what] = before + 1, first

    def lines(self, fields: bool = True) -> list[str]:
        counted = sorted(self.things.items()) + (sorted(self.fields.items()) if fields else [])
        return [f"{count} {what} (first: {first})" for what, (count, first) in counted]


def read_label_values(path: Path) -> np.ndarray:
    """The numbers of a label map, integers (h, w); of a palette PNG the positions in the palette.

    Raises:
        ValueError: unreadable, or a picture in colours instead of numbers.
    """
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a label map: {error}") from error
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise ValueError(
            f"{path} holds colours ({image.mode}), not one class number a pixel; save it as a gray or palette PNG"
        )
    if values.min(initial=0) < 0:
        raise ValueError(f"{path} holds the number {values.min()}; class numbers begin at 0")
    return values.astype(np.uint8 if values.dtype.kind == "b" else values.dtype, copy=False)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header, turned upright as the hosts' loader turns it (EXIF).

    Raises:
        ValueError: not an image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not an image: {error}") from error


def split_by_name(names: list[str], share: float = 0.2) -> tuple[list[str], list[str]]:
    """(train, val) of a data set that has no split: the same names always fall the same way, in any order.

    Raises:
        ValueError: fewer than two names.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} image(s) cannot be split into train and val; two are the least")
    drawn = sorted(names, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    held_out = set(drawn[: max(1, round(share * len(names)))])
    return sorted(set(names) - held_out), sorted(held_out)
