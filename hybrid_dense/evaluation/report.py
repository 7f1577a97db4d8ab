"""The report of an evaluation: headline figures, best and worst classes, every class; for eyes, JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_dense.evaluation.classes import ClassTable
from hybrid_dense.report.tables import markdown_table, print_table

SHOWN = 5  # best and worst classes


def write_report(folder: str | Path, title: str, figures: Mapping[str, float], tables: Sequence[ClassTable]) -> None:
    """Write ``metrics.json`` and ``metrics.md`` into ``folder``, each replaced in one step.

    The JSON has every figure under its name and, under "per_class", title → class → measure; null is "no value".
    """
    content = {name: _finite(value) for name, value in figures.items()}
    content["per_class"] = {
        table.title: {
            name: {measure: _finite(value) for measure, value in row.items()} for name, row in table.rows.items()
        }
        for table in tables
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _replace(folder / "metrics.md", to_markdown(title, figures, tables))


def to_markdown(title: str, figures: Mapping[str, float], tables: Sequence[ClassTable]) -> str:
    """Headline figures, then for each table the best, the worst and all classes."""
    parts = [f"# {title}", _markdown(("metric", "value"), _figure_rows(figures))]
    for table in tables:
        names = table.ranked()
        header = ("class", *table.measures)
        parts.append(f"## {table.title}: {len(table.rows)} classes")
        if names:
            parts.append(f"Best and worst by {table.measures[0]}:")
            parts.append(_markdown(("best", "", "worst", ""), _extremes(table, names)))
        unranked = [name for name in table.rows if name not in set(names)]
        parts.append(_markdown(header, [_class_row(table, name) for name in (*names, *unranked)]))
    return "\n\n".join(parts) + "\n"


def print_report(title: str, figures: Mapping[str, float], tables: Sequence[ClassTable]) -> None:
    """Headline figures, then the best and the worst classes of each table, to the terminal."""
    print_table(title, ("metric", "value"), _figure_rows(figures))
    for table in tables:
        if names := table.ranked():
            print_table(
                f"{table.title}: best and worst of {len(names)} classes by {table.measures[0]}",
                ("best", "", "worst", ""),
                _extremes(table, names),
            )


def _extremes(table: ClassTable, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """The best, best first, beside the worst, worst first; with few classes these are the same ones."""
    measure = table.measures[0]
    pairs = zip(names[:SHOWN], names[: -SHOWN - 1 : -1], strict=True)
    return [(name, _text(table.rows[name][measure]), last, _text(table.rows[last][measure])) for name, last in pairs]


def _figure_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in figures.items()]


def _class_row(table: ClassTable, name: str) -> tuple[str, ...]:
    return (name, *(_text(value) for value in table.rows[name].values()))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A class may be called anything; in Markdown a bar would begin a new cell.
    return markdown_table(header, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _text(value: float) -> str:
    """Counts whole, shares to three digits, percentages to two; COCO's -1 and NaN both say "nothing to measure"."""
    if isinstance(value, int):
        return str(value)
    if value == -1 or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
