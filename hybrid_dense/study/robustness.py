"""What is left of a figure on corrupted images: one file for each run, and one that sums up a task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from hybrid_dense.engine.files import write_text
from hybrid_dense.study.corruptions import STRENGTHS
from hybrid_dense.study.stored import read_json

ROBUSTNESS = "robustness.json"


def read_measured(file: Path) -> dict:
    """dict(of, clean, corruptions: name → a figure for each strength); empty where nothing was measured yet.

    ``of`` tells whose figures they are: checkpoint, metric, split and options.
    """
    return read_json(file) if file.is_file() else dict(of=None, clean=None, corruptions={})


def write_measured(file: Path, measured: dict) -> None:
    """Write what was measured, with the mean of all and its share of the clean figure."""
    clean, corruptions = measured["clean"], measured["corruptions"]
    content = dict(of=measured.get("of"), clean=clean, corruptions=corruptions)
    if corruptions:
        mean = float(np.mean(list(corruptions.values())))
        content |= dict(mean=mean, relative=mean / clean if clean else None)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")


def sum_up_robustness(results: Path, task: str, models: Iterable[str]) -> dict:
    """Write the means over seeds into ``<task>/robustness.json`` and return them: model → what `write_measured` writes.

    The corruptions are those that every run has. Models without a run are left out.
    """
    files = {model: sorted((results / task / model).glob(f"seed*/{ROBUSTNESS}")) for model in models}
    runs = {model: [read_measured(file) for file in found] for model, found in files.items() if found}
    common = [set(run["corruptions"]) for seeds in runs.values() for run in seeds]
    names = [
        name for name in runs and next(iter(runs.values()))[0]["corruptions"] if all(name in run for run in common)
    ]
    summary = {model: _mean(seeds, names) for model, seeds in runs.items()}
    if summary:
        write_text(results / task / ROBUSTNESS, json.dumps(summary, indent=1) + "\n")
    return summary


def _mean(seeds: list[Mapping], names: list[str]) -> dict:
    clean = float(np.mean([run["clean"] for run in seeds]))
    corruptions = {
        name: [float(np.mean([run["corruptions"][name][strength - 1] for run in seeds])) for strength in STRENGTHS]
        for name in names
    }
    mean = float(np.mean(list(corruptions.values()))) if corruptions else clean
    return dict(runs=len(seeds), clean=clean, corruptions=corruptions, mean=mean, relative=mean / clean if clean else 0)
