"""Curves of a training run, drawn from the scalars that mmengine logs: losses, metrics and the learning rate."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curve = tuple[list[float], list[float]]  # positions on the time axis, values

METRIC_MARKS = ("AP", "IoU")  # what a metric's name contains: coco/bbox_mAP_50, mIoU
METRICS_SHOWN = 6  # the headline numbers come first
SMOOTHING_SHARE = 0.06  # of a curve's points that one smoothed point is the mean of

# Strong colours first; the leading curve of an axes is black.
_COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")


def save_curves(scalars_json: str | Path, path: str | Path) -> Path:
    """Draw what mmengine logged in `vis_data/scalars.json` (one JSON object a line); returns `path`.

    One axes each for the losses (raw and smoothed), for the metrics whose names contain AP, for those with IoU, and for
    the learning rate; what was not logged is left out. Time runs in epochs where the log has them, else in iterations.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, is no log of scalars, or holds none of these.
    """
    records = _read(Path(scalars_json))
    unit, position = _time_axis(records)
    losses = _collect(records, position, lambda key: "loss" in key)
    rates = _collect(records, position, lambda key: key == "lr")
    panels = [("loss", losses)]
    for mark in METRIC_MARKS:
        panels.append((mark, _collect(records, position, lambda key, mark=mark: mark in key)))
    panels = [(title, curves) for title, curves in [*panels, ("learning rate", rates)] if curves]
    if not panels:
        raise ValueError(f"{scalars_json} holds no loss, AP, IoU or learning rate; give a training run's scalars.json")

    last = max(max(xs) for _, curves in panels for xs, _ in curves.values())
    figure = Figure(figsize=(5.2 * len(panels), 4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for ax, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw = {"loss": _draw_losses, "learning rate": _draw_rate}.get(title, _draw_metrics)
        draw(ax, curves)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel(unit)
        ax.set_xlim(-0.02 * last, 1.02 * last or 1)  # one time axis for all, so that they can be compared
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _read(path: Path) -> list[dict]:
    """The log's records; a last line that a killed process left half-written is passed over."""
    if not path.is_file():
        raise FileNotFoundError(f"no scalars file {path}; it is <work dir>/<time>/vis_data/scalars.json of a run")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
            records.append(record)
        except ValueError:
            if number < len(lines):
                raise ValueError(
                    f"{path} line {number} is no JSON object: {line[:60]!r}; give mmengine's scalars.json"
                ) from None
    if not records:
        raise ValueError(f"{path} is empty: nothing was logged yet; let the run reach its first log interval")
    return records


def _time_axis(records: list[dict]) -> tuple[str, Callable[[dict], float]]:
    """The name of the time axis, and a function from a record to its place on it.

    A training record's step counts iterations. A validation record has no "iter", and with epoch-based training its
    step is the epoch that just ended. A test's record has no step.
    """
    epochs = [(r["epoch"], r["step"]) for r in records if "epoch" in r and "iter" in r]
    if not epochs:
        return "iteration", lambda record: record.get("step", 0)
    # Epoch e ends at step e * length, so every record bounds the length of an epoch from below.
    length = max(math.ceil(step / epoch) for epoch, step in epochs)
    return "epoch", lambda record: record.get("step", 0) / (length if "iter" in record else 1)


def _collect(records: list[dict], position: Callable[[dict], float], wanted: Callable[[str], bool]) -> dict[str, Curve]:
    """Every number logged under a wanted key, as curves over time, the keys in the order of their first record."""
    curves: dict[str, Curve] = {}
    for record in records:
        for key, value in record.items():
            if wanted(key) and isinstance(value, int | float):
                xs, ys = curves.setdefault(key, ([], []))
                xs.append(position(record))
                ys.append(float(value))
    return curves


def _draw_losses(ax: Axes, curves: dict[str, Curve]) -> None:
    # The total first, in black.
    for colour, name in _coloured(sorted(curves, key=lambda name: name != "loss")):
        xs, ys = map(np.asarray, curves[name])
        ax.plot(xs, ys, color=colour, alpha=0.25, linewidth=1)
        finite = np.isfinite(ys)
        smooth = _smooth(ys[finite])
        ax.plot(xs[finite], smooth, color=colour, linewidth=2.2 if name == "loss" else 1.3, label=name)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, edgecolor="none")


def _draw_metrics(ax: Axes, curves: dict[str, Curve]) -> None:
    # COCO gives -1 where there is no object of a size: that is no value.
    curves = {name: [(x, y) for x, y in zip(xs, ys, strict=True) if y >= 0] for name, (xs, ys) in curves.items()}
    names = sorted((name for name in curves if curves[name]), key=_metric_rank)[:METRICS_SHOWN]
    for colour, name in _coloured(names):
        xs, ys = zip(*curves[name], strict=True)
        main = _metric_rank(name)[0] == 0
        ax.plot(xs, ys, "o-", color=colour, markersize=4, linewidth=2.2 if main else 1.3, label=f"{name}  {ys[-1]:.3g}")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, edgecolor="none", title="last value", title_fontsize=8)


def _draw_rate(ax: Axes, curves: dict[str, Curve]) -> None:
    ax.plot(*curves["lr"], color=_COLOURS[1], linewidth=1.6)
    ax.set_ylim(bottom=0)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _metric_rank(name: str) -> tuple[int, str]:
    """Sort key: headline numbers (…mAP, mIoU), then those at one IoU threshold (…_50), then the rest."""
    return (0 if name.endswith(METRIC_MARKS) else 1 if name.endswith(("50", "75")) else 2), name


def _coloured(names: list[str]) -> list[tuple[str, str]]:
    return [(_COLOURS[i % len(_COLOURS)], name) for i, name in enumerate(names)]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the neighbourhood of each point, as far as there is one on both sides: it does not lag behind."""
    half = int(len(values) * SMOOTHING_SHARE / 2)
    sums = np.concatenate([[0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(half, np.minimum(places, places[::-1]))
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
