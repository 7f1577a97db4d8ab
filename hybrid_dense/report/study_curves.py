"""Learning curves of a study: its figure over epochs, and over minutes, a colour a model and a line a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The first model is black, as the leading curve of a training run.
COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")


def save_study_curves(runs: Mapping[str, Sequence[Mapping]], metric: str, path: Path) -> Path:
    """Draw the validations of every run, and the mean of a model's seeds over the points that all of them have.

    Args:
        runs: model → its runs, each with ``curve`` ((step, minutes, value), …) and ``curve_unit``.
        metric: what the value is called.
        path: the picture to write.

    Raises:
        ValueError: no run has a curve.
    """
    units = [run["curve_unit"] for seeds in runs.values() for run in seeds if run["curve"]]
    if not units:
        raise ValueError(f"no training of this study has logged {metric}, so there is nothing to draw")
    figure = Figure(figsize=(9, 3.8), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for index, (model, seeds) in enumerate(runs.items()):
        curves = [np.array(run["curve"], float) for run in seeds if run["curve"]]
        if not curves:
            continue
        mean, colour = mean_curve(curves), COLOURS[index % len(COLOURS)]
        for column, ax in enumerate(axes):
            for curve in curves:
                ax.plot(curve[:, column], curve[:, 2], color=colour, linewidth=0.8, alpha=0.35)
            ax.plot(mean[:, column], mean[:, 2], color=colour, linewidth=2, label=model)
    for ax, label in zip(axes, (units[0], "minutes in training steps"), strict=True):
        _dress(ax, label)
    axes[0].set_ylabel(metric)
    axes[0].legend(fontsize=9, edgecolor="none", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def mean_curve(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Mean (step, minutes, value) of several curves (n, 3) at the steps that all of them have."""
    common = sorted(set.intersection(*(set(curve[:, 0]) for curve in curves)))
    if not common:
        return np.empty((0, 3))
    return np.mean([[curve[np.flatnonzero(curve[:, 0] == step)[-1]] for step in common] for curve in curves], axis=0)


def _dress(ax: Axes, label: str) -> None:
    ax.set_xlabel(label)
    ax.set_xlim(left=0)
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
