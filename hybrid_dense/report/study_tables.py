"""Tables and sections on studies, from what `results.json` and `robustness.json` say.

A summary is model → dict(metric, sd, metrics, seeds, params, epochs, train_minutes, splits, …), as
`hybrid_dense.study.results.sum_up` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_dense.report.tables import markdown_table

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows
FIGURE = ""  # the column whose title is the figure's name
COLUMNS = ("model", FIGURE, "each seed", "95 % interval", "params (M)", "length", "minutes", "ratio")
FOR_TERMINALS = ("model", FIGURE, "95 % interval", "params (M)", "minutes")


def model_rows(summary: Mapping[str, dict], columns: Sequence[str] = COLUMNS) -> Rows:
    """A row a model: its figure over seeds, its interval, its size, and its time over that of the reference."""
    first = next(iter(summary.values()))
    base = summary.get(first["reference"], first)
    figure = f"{first['split']} {first['metric_name']}"
    cells = [_cells(model, entry, base) for model, entry in summary.items()]
    return tuple(column or figure for column in columns), [tuple(row[column] for column in columns) for row in cells]


def _cells(model: str, entry: Mapping, base: Mapping) -> dict[str, str]:
    minutes = entry["train_minutes"]
    return {
        "model": f"{model} (an older config)" if entry.get("stale") else model,
        FIGURE: f"{entry['metric']:.4f}" + ("" if entry["sd"] is None else f" ± {entry['sd']:.4f}"),
        "each seed": ", ".join(f"{value:.4f}" for value in entry["metrics"]),
        "95 % interval": bounds(entry["splits"][entry["split"]].get("interval")),
        "params (M)": f"{entry['params'] / 1e6:.2f}",
        "length": f"{entry['epochs']} epochs" if entry["epochs"] else f"{entry['iterations']} iterations",
        "minutes": f"{minutes:.1f}",
        "ratio": f"{minutes / base['train_minutes']:.2f}" if base["train_minutes"] else "–",
    }


def further_rows(summary: Mapping[str, dict]) -> Rows:
    """A row a model with the further figures of its study, means over seeds; no rows where there are none."""
    names = next(iter(summary.values()))["also"]
    return ("model", *names), [
        (model, *(f"{entry['also'][name]:.4f}" for name in names)) for model, entry in summary.items() if names
    ]


def split_rows(summary: Mapping[str, dict]) -> Rows:
    """The figure on the other splits; no rows where there is one split only."""
    entries = list(summary.values())
    others = [split for split in entries[0]["splits"] if split != entries[0]["split"]]
    header = (
        "model",
        *(word for split in others for word in (f"{split} {entries[0]['metric_name']}", "95 % interval")),
    )
    rows = [
        (model, *(word for split in others for word in _figure(entry["splits"][split])))
        for model, entry in summary.items()
        if others
    ]
    return header, rows


def difference_rows(summary: Mapping[str, dict]) -> Rows:
    """A row for the reference against each other model, on every split; no rows where nothing was resampled."""
    header = ("reference − other", "split", "difference", "95 % interval", "p", "seeds")
    rows = []
    for reference, entry in summary.items():
        for split, found in entry["splits"].items():
            for other, difference in found.get("above", {}).items():
                rows.append(
                    (
                        f"{reference} − {other}",
                        split,
                        f"{difference['difference']:+.4f}",
                        bounds(difference["interval"], "+.4f"),
                        chance(difference["p"]),
                        f"{len(entry['seeds'])}, {len(summary[other]['seeds'])}",
                    )
                )
    return header, rows


def robustness_rows(summary: Mapping[str, dict]) -> Rows:
    """A row a model and corruption: five strengths, their mean, what it keeps of the clean figure; then all."""
    strengths = max((len(values) for entry in summary.values() for values in entry["corruptions"].values()), default=0)
    header = ("model", "images", *(str(number + 1) for number in range(strengths)), "mean", "kept")
    rows = []
    for model, entry in summary.items():
        blank = [""] * strengths
        rows.append((model, "clean", *blank, f"{entry['clean']:.3f}", "1.000"))
        for name, values in entry["corruptions"].items():
            mean = sum(values) / len(values)
            rows.append(
                (model, name, *(f"{value:.3f}" for value in values), f"{mean:.3f}", _share(mean, entry["clean"]))
            )
        if len(entry["corruptions"]) > 1:
            rows.append((model, "all", *blank, f"{entry['mean']:.3f}", _share(entry["mean"], entry["clean"])))
    return header, rows


def overview_rows(results: Mapping[str, Mapping[str, dict]]) -> Rows:
    """A row a task and model, for the README; no rows without results."""
    columns = tuple(column for column in COLUMNS if column != "each seed")
    rows = []
    for task, summary in results.items():
        (_, figure, *_), found = model_rows(summary, columns)
        rows += [(f"{task}: {figure}", *row) for row in found]
    return ("task", *(column or "mean over seeds" for column in columns)), rows


def study_sections(results: Mapping[str, Mapping[str, dict]], robustness: Mapping[str, dict], folder: str) -> str:
    """The Markdown of all tasks: tables, significance, curves, robustness, conditions; "" without results.

    Args:
        results: ``results.json``.
        robustness: task → its ``robustness.json``, where there is one.
        folder: where the results lie, seen from the page.
    """
    return "\n\n".join(_section(task, summary, robustness.get(task), folder) for task, summary in results.items())


def _section(task: str, summary: Mapping[str, dict], robustness: dict | None, folder: str) -> str:
    entry = next(iter(summary.values()))
    aim = f" Aimed at: {entry['planned_minutes']:g} minutes a training." if entry["planned_minutes"] else ""
    machines = "; ".join(dict.fromkeys(found["machine"] for found in summary.values()))
    commits = ", ".join(dict.fromkeys(found["commit"] for found in summary.values()))
    parts = [
        f"### {entry['title']}",
        f"`hybrid-dense study {entry['study']}`, the {entry['checkpoint']} checkpoint of each training"
        f"{' by validation' if entry['checkpoint'] == 'best' else ''}.{aim} Machine: {machines}. Commit: {commits}. "
        f"Logs, configs and figures: [results/{task}]({folder}/{task}).",
        markdown_table(*model_rows(summary)),
    ]
    for header, rows in (further_rows(summary), split_rows(summary), difference_rows(summary)):
        if rows:
            parts.append(markdown_table(header, rows))
    if any(found["validations"] for found in summary.values()):
        parts.append(f"![{entry['metric_name']} over epochs and minutes]({folder}/{task}/curves.png)")
    if robustness:
        runs = ", ".join(f"{found['runs']} of {name}" for name, found in robustness.items())
        parts.append(f"On corrupted images (trainings: {runs}):")
        parts.append(markdown_table(*robustness_rows(robustness)))
    return "\n\n".join(parts)


def read_robustness(results: Path, tasks: Mapping) -> dict[str, dict]:
    """Task → what its ``robustness.json`` says, for those that have one."""
    files = {task: results / task / "robustness.json" for task in tasks}
    return {task: json.loads(file.read_text()) for task, file in files.items() if file.is_file()}


def bounds(interval: list[float] | None, form: str = ".4f") -> str:
    return "–" if interval is None else f"{interval[0]:{form}} … {interval[1]:{form}}"


def chance(p: float) -> str:
    """The share of 10,000 resamples; fewer than one of them cannot be told from none."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _figure(found: Mapping) -> tuple[str, str]:
    return f"{found['metric']:.4f}", bounds(found.get("interval"))


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "–"
