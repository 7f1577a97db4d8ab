"""Checks of one image file and its mask file. A check yields `Problem`s; the table adds kind and severity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hybrid_dense.data.checks.records import Entry, Problem, Split
from hybrid_dense.data.image_file import SUFFIXES, TURNED, Look

IGNORE_LABEL = 255


@dataclass(frozen=True)
class Case:
    """What a check of one image gets: the entry, its split, and a look at its files (None where there is no mask)."""

    entry: Entry
    split: Split
    look: Look
    mask: Look | None = None

    def files(self) -> Iterator[tuple]:
        """(path, look) of the image and of its mask."""
        yield self.entry.file, self.look
        if self.mask is not None:
            yield self.entry.mask, self.mask


def missing_file(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if look.missing:
            yield Problem(path, "there is no such file")


def empty_file(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if not look.missing and look.unreadable is None and look.bytes == 0:
            yield Problem(path, "the file is empty (0 bytes)")


def unreadable_file(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if look.unreadable is not None:
            yield Problem(path, f"cannot be read: {look.unreadable}")
        elif look.bytes and look.format is None:
            yield Problem(path, f"is no image of a known format ({', '.join(SUFFIXES)})")


def truncated_image(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if look.cut_off is not None:
            yield Problem(path, f"the {look.format} is cut off: {look.cut_off}")


def wrong_extension(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if look.format and path.suffix.lower() not in SUFFIXES[look.format]:
            yield Problem(path, f"is a {look.format} named {path.suffix or 'without suffix'}")


def giant_image(case: Case) -> Iterator[Problem]:
    for path, look in case.files():
        if look.giant is not None:
            yield Problem(path, look.giant)


def deep_image(case: Case) -> Iterator[Problem]:
    if case.look.mode and case.look.mode.startswith(("I", "F")):
        yield Problem(case.entry.file, f"has over 8 bits a channel (mode {case.look.mode}); loaders keep the upper 8")


def image_size(case: Case) -> Iterator[Problem]:
    look, stated = case.look, case.entry.size
    if look.size and stated and look.size != stated and look.stored != stated:
        yield Problem(case.entry.file, f"is {_size(look.size)}, the annotation says {_size(stated)}")


def exif_rotation(case: Case) -> Iterator[Problem]:
    look, stated = case.look, case.entry.size
    if look.orientation in TURNED and look.stored == stated and look.size != stated:
        said = f"EXIF orientation {look.orientation} turns it to {_size(look.size)} on loading; the annotation is for "
        yield Problem(case.entry.file, f"{said}{_size(stated)}, unturned")


def mask_size(case: Case) -> Iterator[Problem]:
    look, mask = case.look, case.mask
    # Loaders turn images upright by EXIF, but not masks.
    if mask is not None and mask.stored and look.size and mask.stored != look.size:
        yield Problem(case.entry.mask, f"is {_size(mask.stored)}, its image {_size(look.size)}")
    for box in case.entry.boxes:
        size = look.size or case.entry.size
        if box.mask_size and size and box.mask_size != size:
            said = f"the mask of {box.id} is {_size(box.mask_size)}, the image {_size(size)}"
            yield Problem(case.entry.file, said, box.id, box.corners)


def mask_channels(case: Case) -> Iterator[Problem]:
    if case.mask is not None and case.mask.mode and case.mask.mode not in ("1", "L", "P") and case.mask.mode[0] != "I":
        yield Problem(case.entry.mask, f"has channels of colour (mode {case.mask.mode}), not one class a pixel")


def label_value(case: Case) -> Iterator[Problem]:
    allowed = case.split.labels
    if case.mask is not None and case.mask.values and allowed is not None:
        wrong = {value: count for value, count in case.mask.values.items() if value not in allowed}
        if wrong:
            said = ", ".join(f"{value} ({count} px)" for value, count in list(wrong.items())[:5])
            yield Problem(case.entry.mask, f"holds {said}; the config takes {_span(allowed)}")


def no_annotation(case: Case) -> Iterator[Problem]:
    if case.split.has_boxes and not case.entry.boxes:
        yield Problem(case.entry.file, "has no annotated object")
    values = case.mask.values if case.mask else None
    meanings = case.split.labels or {IGNORE_LABEL: None}
    if values and all(meanings.get(value, value) is None for value in values):
        yield Problem(case.entry.mask, "every pixel is ignored")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _span(values: Iterable[int]) -> str:
    """The values as ranges: "0–10, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)
