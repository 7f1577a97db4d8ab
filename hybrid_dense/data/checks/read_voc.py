"""Read PASCAL VOC's XML files leniently."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from hybrid_dense.data.checks.records import Box, Entry, Problem, Split

EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    name: str,
    source: Path,
    ids: list[str],
    images: Path,
    annotations: Path,
    classes: tuple[str, ...] = (),
    suffixes: tuple[str, ...] = (".jpg",),
) -> Split:
    """The split of these image ids.

    Args:
        name, source: of the split.
        ids: file stems, as ``ImageSets/Main/*.txt`` lists them.
        images, annotations: the folders JPEGImages and Annotations.
        classes: those of the config; by default all names that occur, sorted.
        suffixes: of the image files; the first that is there is taken.
    """
    entries, unreadable = [], []
    for image_id in ids:
        xml = annotations / f"{image_id}.xml"
        entry, problems = read_entry(image_id, find_image(images, image_id, suffixes), xml)
        entries.append(entry)
        unreadable += problems
    found = sorted({box.name for entry in entries for box in entry.boxes if box.name})
    return Split(
        name,
        source,
        tuple(entries),
        classes=classes or tuple(found),
        unreadable=tuple(unreadable),
        image_ids=tuple(ids),
    )


def find_image(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    """The image of an annotation; with the first suffix where there is none."""
    paths = [folder / f"{stem}{suffix}" for suffix in suffixes]
    return next((path for path in paths if path.is_file()), paths[0])


def read_entry(image_id: str, image: Path, xml: Path) -> tuple[Entry, list[Problem]]:
    """One image and what cannot be read of its annotation."""
    try:
        root = ET.parse(xml).getroot()
    except OSError as error:
        return Entry(image_id, image, annotation=xml), [Problem(xml, f"cannot be read: {error.strerror}")]
    except (ET.ParseError, ValueError) as error:
        return Entry(image_id, image, annotation=xml), [Problem(xml, f"is not XML: {error}")]
    boxes, problems = [], []
    for number, element in enumerate(root.iter("object"), start=1):
        box, problem = read_box(element, number)
        boxes.append(box)
        if problem:
            problems.append(Problem(xml, problem, box.id))
    return Entry(image_id, image, read_size(root), tuple(boxes), annotation=xml), problems


def read_size(root: ET.Element) -> tuple[int, int] | None:
    """(width, height) as stated; None where it is not, or as 0, which some tools write."""
    try:
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def read_box(element: ET.Element, number: int) -> tuple[Box, str | None]:
    """One object and what is wrong with it in the loader's eyes. VOC counts from 1, loaders from 0."""
    name = (element.findtext("name") or "").strip() or None
    texts = [element.findtext(f"bndbox/{edge}") for edge in EDGES]
    try:
        values = tuple(float(text) - 1 for text in texts)
    except (TypeError, ValueError):
        said = ", ".join(f"{edge} {text!r}" for edge, text in zip(EDGES, texts, strict=True))
        return Box(f"#{number}", name, str(name), None), f"object {number} has no four numbers for a box: {said}"
    problem = None
    if name is None:
        problem = f"object {number} has no name"
    elif not all(map(math.isfinite, values)):  # mmdet makes integers of them, which raises
        problem = f"object {number} has a box that is not finite: {', '.join(texts)}"
    return Box(f"#{number}", name, str(name), values), problem
