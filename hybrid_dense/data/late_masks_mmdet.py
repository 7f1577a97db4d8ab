"""Instance masks that are drawn once, after the crop: pipelines resize, flip and crop outlines instead of pixels.

mmdet's ``LoadAnnotations`` draws every object over the whole image, and each later transform writes those images anew;
its ``poly2mask=False`` keeps polygons, but drops every object that is given by run lengths. Here each object stays what
it was in the file, and the transforms add up to one scale, window and flip a direction. What is drawn in the end is the
object's own rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.bbox import HorizontalBoxes, get_box_type
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import TRANSFORMS
from pycocotools import mask as coco_mask

UNIT = 5
"""pycocotools rounds corners to this part of a pixel before it fills a polygon."""


@dataclass(frozen=True)
class Axis:
    """One direction of a picture: scaled by ``scale``, pixels ``start`` to ``start + length`` taken, then mirrored."""

    length: int
    scale: float = 1.0
    start: float = 0.0
    mirrored: bool = False

    def resized(self, length: int) -> Axis:
        factor = length / self.length
        return replace(self, length=length, scale=self.scale * factor, start=self.start * factor)

    def cropped(self, first: int, length: int) -> Axis:
        first = self.length - first - length if self.mirrored else first
        return replace(self, length=length, start=self.start + first)

    def flipped(self) -> Axis:
        return replace(self, mirrored=not self.mirrored)

    def sources(self, length: int) -> np.ndarray:
        """The nearest of ``length`` pixels for each of this axis, not mirrored, by the rule of OpenCV's resize."""
        nearest = np.floor((np.arange(self.length) + self.start) * (1 / self.scale)).astype(np.int64)
        return nearest.clip(0, length - 1)


class Patch(NamedTuple):
    """A mask by the part that is not empty: uint8 (h, w), its corner at (``top``, ``left``) of the picture."""

    top: int
    left: int
    pixels: np.ndarray

    @classmethod
    def of(cls, bitmap: np.ndarray, top: int = 0, left: int = 0) -> Patch:
        """Of a bitmap that lies at (``top``, ``left``); empty margins go."""
        x, y, width, height = cv2.boundingRect(bitmap) if bitmap.size else (0, 0, 0, 0)
        if not width:
            return EMPTY
        return cls(int(top) + y, int(left) + x, bitmap[y : y + height, x : x + width])

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge; zeros where it is empty."""
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width, self.top + height


EMPTY = Patch(0, 0, np.zeros((0, 0), np.uint8))


class LateMasks(BitmapMasks):
    """mmdet's ``BitmapMasks`` without the bitmaps.

    Resizing, flipping, cropping and choosing are noted; areas and boxes come from patches of the objects' own size, and
    patches are what a worker hands to its process. Whoever asks for ``masks``, as all other methods of the class do,
    gets the array (n, h, w), and has plain ``BitmapMasks`` from then on.

    Args:
        sources: an object each: polygons as arrays (x1, y1, x2, y2, …), COCO's run lengths, or a `Patch`, all in
            pixels of a picture of ``height`` × ``width``.
        height, width: that picture's size.
        y, x: what has been done to it since; nothing by default.

    Raises:
        ValueError: run lengths are those of a picture of another size.
    """

    def __init__(self, sources: Sequence, height: int, width: int, y: Axis | None = None, x: Axis | None = None):
        for source in sources:
            if isinstance(source, dict) and tuple(source["size"]) != (height, width):
                raise ValueError(f"a mask of {source['size']} pixels in an image of [{height}, {width}]")
        self.sources, self.picture = list(sources), (height, width)
        self.y, self.x = y or Axis(height), x or Axis(width)
        self.height, self.width = self.y.length, self.x.length
        self.drawn: list[Patch] | None = None

    def _seen(self, y: Axis, x: Axis) -> LateMasks:
        return LateMasks(self.sources, *self.picture, y, x)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index) -> LateMasks:
        chosen = np.atleast_1d(np.arange(len(self))[index])
        masks = LateMasks([self.sources[number] for number in chosen], *self.picture, self.y, self.x)
        masks.drawn = self.drawn and [self.drawn[number] for number in chosen]
        return masks

    def rescale(self, scale, interpolation: str = "nearest") -> LateMasks:
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape, interpolation: str = "nearest") -> LateMasks:
        return self._seen(self.y.resized(out_shape[0]), self.x.resized(out_shape[1]))

    def flip(self, flip_direction: str = "horizontal") -> LateMasks:
        y = self.y.flipped() if flip_direction in ("vertical", "diagonal") else self.y
        x = self.x.flipped() if flip_direction in ("horizontal", "diagonal") else self.x
        return self._seen(y, x)

    def crop(self, bbox: np.ndarray) -> LateMasks:
        left, right = np.clip(bbox[0::2], 0, self.width).tolist()
        top, bottom = np.clip(bbox[1::2], 0, self.height).tolist()
        return self._seen(self.y.cropped(top, max(bottom - top, 1)), self.x.cropped(left, max(right - left, 1)))

    def pad(self, out_shape, pad_val: int = 0) -> BitmapMasks:
        canvas = np.zeros((len(self), *out_shape), np.uint8)
        if pad_val:
            canvas[:, self.height :], canvas[:, :, self.width :] = pad_val, pad_val
        for mask, patch in zip(canvas, self.draw(), strict=True):
            left, top, right, bottom = patch.box
            mask[top:bottom, left:right] = patch.pixels
        return BitmapMasks(canvas, *out_shape)

    @property
    def areas(self) -> np.ndarray:
        return np.array([np.count_nonzero(patch.pixels) for patch in self.draw()], np.int64)

    def get_bboxes(self, dst_type="hbb"):
        box_type = get_box_type(dst_type)[1]
        if box_type is not HorizontalBoxes:
            return super().get_bboxes(dst_type)
        return HorizontalBoxes(np.array([patch.box for patch in self.draw()], np.float32).reshape(-1, 4))

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BitmapMasks:
        return BitmapMasks.cat(masks)

    def draw(self) -> list[Patch]:
        """A patch an object, in this picture."""
        if self.drawn is None:
            self.drawn = [draw(source, self.picture, self.y, self.x) for source in self.sources]
        return self.drawn

    def __getattr__(self, name: str):
        if name != "masks":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # The asker may change the pixels; what was noted would then be wrong.
        bitmaps = self.pad((self.height, self.width))
        self.__class__, self.__dict__ = BitmapMasks, bitmaps.__dict__
        return self.masks

    def __reduce__(self):
        return LateMasks, (self.draw(), self.height, self.width)


def draw(source, picture: tuple[int, int], y: Axis, x: Axis) -> Patch:
    """One object, given in a picture of this height and width, as the axes show it."""
    found = draw_polygons(source, y, x) if isinstance(source, list) else sample(source, picture, y, x)
    top, left, pixels = found
    if y.mirrored:
        top, pixels = y.length - top - pixels.shape[0], pixels[::-1]
    if x.mirrored:
        left, pixels = x.length - left - pixels.shape[1], pixels[:, ::-1]
    # Contiguous, so that pickling is one copy, and without the larger picture that it was part of.
    return Patch(top, left, pixels.copy()) if pixels.size else found


def draw_polygons(polygons: list[np.ndarray], y: Axis, x: Axis) -> Patch:
    """The union of polygons, filled by pycocotools, before mirroring."""
    # Rounded as it would round them in the whole picture: many corners of COCO lie half-way between two units.
    units = [
        np.floor(UNIT * (np.asarray(polygon, np.float64).reshape(-1, 2) * (x.scale, y.scale)) + 0.5)
        for polygon in polygons
    ]
    corners, start = np.concatenate(units) / UNIT, np.array((x.start, y.start))
    low = np.maximum(np.floor(corners.min(0) - start).astype(int) - 1, 0)
    width, height = np.minimum(np.ceil(corners.max(0) - start).astype(int) + 1, (x.length, y.length)) - low
    if min(width, height) <= 0:
        return EMPTY
    moved = [to_pixels(points - UNIT * (start + low)).ravel() for points in units]
    codes = coco_mask.frPyObjects(moved, height, width)
    # It fills column by column; OpenCV turns that to rows faster than numpy.
    return Patch.of(cv2.transpose(coco_mask.decode(coco_mask.merge(codes)).T), low[1], low[0])


def to_pixels(units: np.ndarray) -> np.ndarray:
    """What pycocotools takes for so many units: it truncates UNIT · x + 0.5, which goes up where that is negative."""
    return (units - 0.75 * (units < 0)) / UNIT


def sample(source: dict | Patch, picture: tuple[int, int], y: Axis, x: Axis) -> Patch:
    """Run lengths or a patch, by the nearest pixel, before mirroring."""
    if isinstance(source, dict):
        code = coco_mask.frPyObjects(source, *picture) if isinstance(source["counts"], list) else source
        source = Patch.of(cv2.transpose(coco_mask.decode(code).T))
    left, top, right, bottom = source.box
    rows, columns = y.sources(picture[0]), x.sources(picture[1])
    first_row, last_row = np.searchsorted(rows, (top, bottom))
    first_column, last_column = np.searchsorted(columns, (left, right))
    pixels = source.pixels[rows[first_row:last_row, None] - top, columns[None, first_column:last_column] - left]
    return Patch.of(pixels, first_row, first_column)


@TRANSFORMS.register_module()
class LoadLateMasks(LoadAnnotations):
    """mmdet's ``LoadAnnotations``, with its options and results, whose masks are `LateMasks`.

    They lie where mmdet's lie but for the edges: an outline is scaled exactly, a bitmap by the nearest pixel. Without a
    change of scale both are the same.
    """

    def __init__(self, with_bbox: bool = True, with_mask: bool = True, **options):
        super().__init__(with_bbox=with_bbox, with_mask=with_mask, **options)

    def _load_masks(self, results: dict) -> None:
        results["gt_masks"] = LateMasks(self._process_masks(results), *results["ori_shape"])
