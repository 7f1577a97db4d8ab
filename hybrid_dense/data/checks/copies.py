"""Checks that compare images with each other: copies within a split, and copies in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_dense.data.checks.records import Problem
from hybrid_dense.data.image_file import Look, digest

SIMILAR = 0.9995  # cosine of two thumbnails: a JPEG saved anew passes, the next frame of a video seldom does
BLOCK = 2048


@dataclass(frozen=True)
class Copy:
    """An image that has the content of another one; ``first`` and ``again`` are (split, file)."""

    first: tuple[str, Path]
    again: tuple[str, Path]
    exact: bool

    @property
    def leak(self) -> bool:
        return self.first[0] != self.again[0]

    @property
    def splits(self) -> str:
        return ", ".join(dict.fromkeys((self.first[0], self.again[0])))


def find_copies(looks: list[tuple[str, Path, Look]], near: bool) -> list[Copy]:
    """Every image that is a copy of one before it; ``near`` compares the thumbnails too."""
    exact = list(exact_copies(looks))
    return exact + (list(near_copies(looks, {copy.again for copy in exact})) if near else [])


def exact_copies(looks: list[tuple[str, Path, Look]]) -> Iterator[Copy]:
    """Same bytes. Only files of one length are hashed."""
    by_length = defaultdict(list)
    for split, path, look in looks:
        if look.bytes:
            by_length[look.bytes].append((split, path))
    for same in by_length.values():
        firsts: dict[str, tuple[str, Path]] = {}
        for place in same if len(same) > 1 else ():
            try:
                content = digest(place[1])
            except OSError:  # gone or forbidden: another check says so
                continue
            if content in firsts:
                yield Copy(firsts[content], place, exact=True)
            else:
                firsts[content] = place


def near_copies(looks: list[tuple[str, Path, Look]], known: set[tuple[str, Path]]) -> Iterator[Copy]:
    """Thumbnails that are all but equal: the same picture compressed or scaled anew."""
    seen = [(split, path, look.thumbnail) for split, path, look in looks if look.thumbnail is not None]
    places = [(split, path) for split, path, _ in seen if (split, path) not in known]
    if len(places) < 2:
        return
    vectors = np.stack([vector for split, path, vector in seen if (split, path) not in known])
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        best, where = np.full(len(rows), -1.0, np.float32), np.zeros(len(rows), int)
        for other in range(0, start + BLOCK, BLOCK):
            alike = rows @ vectors[other : other + BLOCK].T
            # Only images before this one count, so that a pair is reported once.
            alike[np.arange(start, start + len(rows))[:, None] <= np.arange(other, other + alike.shape[1])] = -1
            column = alike.argmax(1)
            value = alike[np.arange(len(rows)), column]
            better = value > best
            best[better], where[better] = value[better], other + column[better]
        for row in np.flatnonzero(best >= SIMILAR):
            yield Copy(places[where[row]], places[start + row], exact=False)


def duplicate_image(copies: Iterable[Copy]) -> Iterator[tuple[str, Problem]]:
    return _problems(copies, exact=True, leak=False, said="has the same content as")


def near_duplicate(copies: Iterable[Copy]) -> Iterator[tuple[str, Problem]]:
    return _problems(copies, exact=False, leak=False, said="looks the same as")


def leak(copies: Iterable[Copy]) -> Iterator[tuple[str, Problem]]:
    return _problems(copies, exact=True, leak=True, said="has the same content as")


def near_leak(copies: Iterable[Copy]) -> Iterator[tuple[str, Problem]]:
    return _problems(copies, exact=False, leak=True, said="looks the same as")


def _problems(copies: Iterable[Copy], exact: bool, leak: bool, said: str) -> Iterator[tuple[str, Problem]]:
    for copy in copies:
        if (copy.exact, copy.leak) == (exact, leak):
            where = f" of {copy.first[0]}" if copy.leak else ""
            other = "another entry" if copy.first[1] == copy.again[1] else copy.first[1]
            yield copy.splits, Problem(copy.again[1], f"{said} {other}{where}")
