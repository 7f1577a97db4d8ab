"""The course of a training from what mmengine logged, resumed or not: the figure over epochs and over minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SCALARS = "*/vis_data/scalars.json"


@dataclass(frozen=True)
class History:
    """What the logs of one work folder say.

    Args:
        curve: (epoch, minutes, figure) of every validation; iterations where the training does not count epochs.
        minutes: time in training steps, loading included; validations, saving and start-up are not (of trainings that
            count iterations, saving and the sums of a validation are), and of what was trained twice after a kill the
            second time counts.
        epochs: that were trained, 0 where it does not count them.
        iterations: that were logged.
    """

    curve: list[tuple[float, float, float]]
    minutes: float
    epochs: int
    iterations: int

    @property
    def unit(self) -> str:
        return "epoch" if self.epochs else "iteration"


def read_history(work_dir: Path, metric: str) -> History:
    """The history of the figure ``metric`` in a work folder; empty where nothing was logged yet."""
    curve = []
    seconds, epochs, last = 0.0, 0, 0
    for iteration, record in _records(work_dir):
        if "iter" in record:
            seconds += record.get("time", 0.0) * (iteration - last)
            epochs, last = max(epochs, int(record.get("epoch", 0))), iteration
        elif isinstance(record.get(metric), (int, float)):
            curve.append((record["step"], seconds / 60, float(record[metric])))
    return History(curve, seconds / 60, epochs, last)


def _records(work_dir: Path) -> list[tuple[int, dict]]:
    """(iteration, record) in order; what a resumed training did anew replaces what was done before."""
    kept: list[tuple[int, dict]] = []
    for file in sorted(work_dir.glob(SCALARS)):
        iteration, begun = kept[-1][0] if kept else 0, False
        for record in _lines(file):
            if "iter" in record:
                iteration = record["step"]
                if not begun:
                    kept = [(when, old) for when, old in kept if when < iteration]
                    begun = True
            if "step" in record:
                kept.append((iteration, record))
    return kept


def _lines(file: Path) -> Iterator[dict]:
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a killed process leaves half a line
        if isinstance(record, dict):
            yield record
