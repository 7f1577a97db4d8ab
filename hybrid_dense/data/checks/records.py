"""A data set as it is written, mistakes included: what the readers hand to the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hybrid_dense.data.findings import Corners


@dataclass(frozen=True)
class Box:
    """One annotated object.

    Attributes:
        id: the annotation's id, or "#3" for the third of its image where the format has no ids.
        name: the class; None where the data gives its category no name.
        category: the category as the file writes it.
        corners: as the host's loader sees them; None where the file has no four numbers.
        area: as stated, None where it is not.
        mask_size: (width, height) of a run-length mask.
        polygons: number of corners of each polygon; None where there is no polygon.
    """

    id: str
    name: str | None
    category: str
    corners: Corners | None
    area: float | None = None
    mask_size: tuple[int, int] | None = None
    polygons: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """One image with its annotation. ``size`` is (width, height) as the annotation states it."""

    id: str
    file: Path
    size: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    annotation: Path | None = None


@dataclass(frozen=True)
class Problem:
    """What a reader or a check says about one file; the table adds kind and severity."""

    file: Path
    message: str
    box_id: str | None = None
    box: Corners | None = None


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: "train", "val", "test", or what the folder calls it.
        source: the file or folder that defines it; two splits of one source are the same split.
        entries: its images.
        has_boxes: whether objects are annotated by boxes.
        classes: those that the config (or, without one, the data) knows, in the order of the labels; may be empty.
        categories: the classes that an annotation file declares, in its order; None where the format declares none.
        labels: mask value → class, None for a value that is ignored; None where nobody knows.
        unreadable: annotation files, or parts of them, that no loader can read.
        orphans: annotations of images that the file does not list.
        image_ids, box_ids: every id as the file writes it, to find doubles; () where the format has none.
    """

    name: str
    source: Path
    entries: tuple[Entry, ...] = ()
    has_boxes: bool = True
    classes: tuple[str, ...] = ()
    categories: tuple[str, ...] | None = None
    labels: Mapping[int, str | None] | None = None
    unreadable: tuple[Problem, ...] = ()
    orphans: tuple[Problem, ...] = ()
    image_ids: tuple[str, ...] = ()
    box_ids: tuple[str, ...] = ()
