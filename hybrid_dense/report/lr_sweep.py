"""The picture of a learning-rate sweep: the loss over the rate, and the rates that it suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73")


def save_lr_sweep(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Mapping[str, float],
    path: str | Path,
) -> Path:
    """Draw the losses, raw and smoothed, over rates on a logarithmic axis, with a line at each mark; returns ``path``.

    Args:
        marks: rates to point at, by what they are called.
    """
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.plot(rates, losses, color="black", alpha=0.25, linewidth=1)
    ax.plot(rates, smoothed, color="black", linewidth=2.2, label="loss, smoothed")
    for colour, (name, rate) in zip(_COLOURS, marks.items(), strict=False):
        ax.axvline(rate, color=colour, linewidth=1.6, linestyle="--", label=f"{name}  {rate:.2g}")
    ax.set_xscale("log")
    # The explosion at the end would flatten all that comes before it.
    low, high = min(smoothed), max(smoothed[0], *smoothed[: max(len(smoothed) // 2, 1)])
    room = 0.15 * max(high - low, 1e-6)
    ax.set_ylim(low - room, high + 2 * room)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, edgecolor="none")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
