"""What a metric says about each class: the contract between metrics and their report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassTable:
    """Figures of every class. A metric keeps those of its last evaluation as ``class_tables: list[ClassTable]``.

    Args:
        title: what was measured, like "coco/bbox".
        rows: class name → measure → value, in the unit of the metric's own figures; NaN where the data say nothing.
            All rows have the same measures; the first one ranks.
    """

    title: str
    rows: Mapping[str, Mapping[str, float]]

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(next(iter(self.rows.values()), ()))

    def ranked(self) -> list[str]:
        """The classes from best to worst by the first measure; those without a value are left out."""
        values = {name: row[self.measures[0]] for name, row in self.rows.items()}
        return sorted((name for name in values if not math.isnan(values[name])), key=lambda name: -values[name])
