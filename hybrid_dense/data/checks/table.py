"""The table of checks: what is looked for, how bad it is, and what `train` does about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybrid_dense.data.checks import boxes, classes, copies, files
from hybrid_dense.data.findings import ERROR, NOTE, WARNING

SPLIT, IMAGE, COPIES = "split", "image", "copies"
WARNS, SKIPS, STOPS, LATER = "warns", "skips the image", "refuses to start", "–"


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        find: the function that yields the problems, of a `Split`, a `Case` or a list of `Copy`s, as ``scope`` says.
        train: what `train` does: it warns, skips the image (up to the limit) or refuses to start; "–" where finding it
            takes the full look, which `train` does not take.
        meaning: one line: what it is and what comes of it.
    """

    find: Callable[..., Iterator]
    scope: str
    severity: str
    train: str
    meaning: str

    @property
    def kind(self) -> str:
        return self.find.__name__.replace("_", "-")


CHECKS = (
    Check(files.missing_file, IMAGE, ERROR, SKIPS, "an image or mask file is not there"),
    Check(files.empty_file, IMAGE, ERROR, SKIPS, "an image or mask file of 0 bytes"),
    Check(files.unreadable_file, IMAGE, ERROR, SKIPS, "no permission, a loop of links, no image, or a broken one"),
    Check(files.truncated_image, IMAGE, ERROR, SKIPS, "the end of the file is missing"),
    Check(files.giant_image, IMAGE, ERROR, WARNS, "over 179 million pixels: a decompression bomb or a mistake"),
    Check(files.wrong_extension, IMAGE, WARNING, WARNS, "a PNG named .jpg and the like; loaders go by content"),
    Check(files.deep_image, IMAGE, WARNING, WARNS, "an image of 16 bits a channel; the lower 8 are lost"),
    Check(files.image_size, IMAGE, ERROR, WARNS, "image and annotation state different sizes"),
    Check(files.exif_rotation, IMAGE, ERROR, WARNS, "the loader turns the image by EXIF, but not its boxes"),
    Check(files.mask_size, IMAGE, ERROR, WARNS, "image and mask differ in size"),
    Check(files.mask_channels, IMAGE, ERROR, WARNS, "a mask in colours instead of class numbers"),
    Check(files.label_value, IMAGE, ERROR, LATER, "a mask holds a value that is no class and not ignored"),
    Check(files.no_annotation, IMAGE, NOTE, LATER, "an image without objects, or a mask that ignores every pixel"),
    Check(boxes.box_missing, IMAGE, ERROR, WARNS, "an annotation without four numbers for a box"),
    Check(boxes.box_not_finite, IMAGE, ERROR, WARNS, "NaN or infinity in a box; mmdet drops it silently"),
    Check(boxes.box_empty, IMAGE, ERROR, WARNS, "zero or negative width or height; COCO's loader drops it silently"),
    Check(boxes.box_tiny, IMAGE, WARNING, WARNS, "narrower than a pixel, or area 0; COCO's loader drops it silently"),
    Check(boxes.box_outside, IMAGE, ERROR, WARNS, "no part of the box lies in the image"),
    Check(boxes.box_over_edge, IMAGE, WARNING, WARNS, "more than a pixel of the box lies beyond the image"),
    Check(boxes.box_double, IMAGE, WARNING, WARNS, "two boxes of one class with the same corners"),
    Check(boxes.polygon_broken, IMAGE, WARNING, WARNS, "no polygon of three corners or more; the object is ignored"),
    Check(classes.annotation_unreadable, SPLIT, ERROR, STOPS, "an annotation, or a part of it, no loader can read"),
    Check(classes.orphan, SPLIT, WARNING, WARNS, "an annotation or mask without its image"),
    Check(classes.no_images, SPLIT, ERROR, STOPS, "a split of nothing"),
    Check(classes.double_image_id, SPLIT, ERROR, WARNS, "two images of one id: one of them is never seen"),
    Check(classes.double_annotation_id, SPLIT, ERROR, STOPS, "two annotations of one id; mmdet asserts"),
    Check(classes.double_category, SPLIT, ERROR, STOPS, "two categories of one name shift all class numbers"),
    Check(classes.nameless_category, SPLIT, ERROR, WARNS, "annotations of a category that the file does not declare"),
    Check(classes.class_mismatch, SPLIT, ERROR, STOPS, "the data has no such class as the config names"),
    Check(classes.class_unknown, SPLIT, WARNING, WARNS, "the config leaves out a class; its objects are dropped"),
    Check(classes.class_order, SPLIT, ERROR, STOPS, "file and config order the classes differently: names are swapped"),
    Check(classes.class_unused, SPLIT, WARNING, WARNS, "a class without an object in this split"),
    Check(copies.duplicate_image, COPIES, WARNING, WARNS, "two images of a split have the same content"),
    Check(copies.near_duplicate, COPIES, NOTE, LATER, "two images of a split look the same"),
    Check(copies.leak, COPIES, ERROR, WARNS, "an image of one split is in another: the figures are too good"),
    Check(copies.near_leak, COPIES, WARNING, LATER, "an image of one split looks the same as one of another"),
)
QUICK = tuple(check for check in CHECKS if check.train != LATER)
HEADER = ("finding", "severity", "train", "meaning")


def rows() -> list[tuple[str, ...]]:
    """The table for docs/check-data.md."""
    return [(f"`{check.kind}`", check.severity, check.train, check.meaning) for check in CHECKS]
