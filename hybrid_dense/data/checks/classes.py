"""Checks of a whole split: its annotation file, ids and class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from hybrid_dense.data.checks.records import Problem, Split

SHOWN = 6


def annotation_unreadable(split: Split) -> Iterator[Problem]:
    yield from split.unreadable


def orphan(split: Split) -> Iterator[Problem]:
    yield from split.orphans


def no_images(split: Split) -> Iterator[Problem]:
    if not split.entries and not split.unreadable:
        yield Problem(split.source, "holds no image")


def double_image_id(split: Split) -> Iterator[Problem]:
    for image_id, count in Counter(split.image_ids).items():
        if count > 1:
            yield Problem(split.source, f"image id {image_id} stands {count} times")


def double_annotation_id(split: Split) -> Iterator[Problem]:
    for box_id, count in Counter(split.box_ids).items():
        if count > 1:
            yield Problem(split.source, f"annotation id {box_id} stands {count} times", box_id)


def double_category(split: Split) -> Iterator[Problem]:
    for name, count in Counter(split.categories or ()).items():
        if count > 1:
            yield Problem(split.source, f"category {name!r} stands {count} times; every class after it is shifted")


def nameless_category(split: Split) -> Iterator[Problem]:
    counts = Counter(box.category for box in _boxes(split) if box.name is None)
    for category, count in counts.items():
        yield Problem(split.source, f"category {category} has no name; annotations dropped: {count}")


def class_mismatch(split: Split) -> Iterator[Problem]:
    """A class of the config that the data cannot have.

    A file that declares its categories must declare every class of the config: mmdet numbers the classes by the file.
    Where nothing is declared (VOC), a rare class may be absent; but not all, and not beside a name that is almost its.
    """
    present = _present(split)
    if not split.classes or not split.has_boxes or not (present or split.categories):
        return
    declared = present if split.categories is None else split.categories
    absent = [name for name in split.classes if name not in declared]
    unknown = [name for name in declared if name not in split.classes]
    near = {name: match for name in absent for match in _near(name, unknown)}
    if absent and (split.categories is not None or len(absent) == len(split.classes) or near):
        hint = "; ".join(f"did you mean {match!r} for {name!r}?" for name, match in list(near.items())[:SHOWN])
        yield Problem(
            split.source,
            f"no {_listed(absent)} ({len(absent)} of {len(split.classes)} classes of the config); "
            f"the config does not know {_listed(unknown) or 'any other'}"
            f"{f'; {hint}' if hint else ''}; set dataset.metainfo.classes",
        )


def class_unknown(split: Split) -> Iterator[Problem]:
    if split.classes:
        counts = Counter(box.name for box in _boxes(split) if box.name and box.name not in split.classes)
        for name, count in counts.items():
            yield Problem(split.source, f"the config does not know class {name!r}; annotations dropped: {count}")


def class_order(split: Split) -> Iterator[Problem]:
    order = [name for name in split.categories or () if name in split.classes]
    if set(order) == set(split.classes) and len(order) == len(split.classes) and order != list(split.classes):
        yield Problem(
            split.source,
            "mmdet numbers the classes in the order of the file, so the config's names would go to other classes; "
            f"set dataset.metainfo.classes=({', '.join(map(repr, order))})",
        )


def class_unused(split: Split) -> Iterator[Problem]:
    present = _present(split)
    absent = [name for name in split.classes if name not in present]
    if split.has_boxes and present and absent:
        yield Problem(split.source, f"no object of {_listed(absent)}")


def _boxes(split: Split) -> Iterable:
    return (box for entry in split.entries for box in entry.boxes)


def _present(split: Split) -> tuple[str, ...]:
    return tuple(dict.fromkeys(box.name for box in _boxes(split) if box.name))


def _near(name: str, others: list[str]) -> list[str]:
    folded = {other.casefold(): other for other in others}
    return [folded[match] for match in get_close_matches(name.casefold(), folded, n=1, cutoff=0.8)]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
