"""Speed against image size and against parameters, from the rows of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator, ScalarFormatter

# The first subject is black, as the leading curve of a training run.
COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
STYLES = {"train": dict(linestyle="-", marker="o"), "infer": dict(linestyle="--", marker="^")}
TITLES = {"train": "training step", "infer": "inference"}


def save_benchmark_plot(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw images/s against the side of the image, and against parameters at the largest size that all have.

    Args:
        rows: dicts with ``subject``, ``mode`` (``"train"`` or ``"infer"``), ``size``, ``images_per_second``,
            ``spread`` (or None) and ``parameters``, as in benchmark.json.
        path: the picture to write.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("nothing was measured, so there is nothing to draw")
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    modes = [mode for mode in STYLES if any(row["mode"] == mode for row in rows)]
    colours = {subject: COLOURS[index % len(COLOURS)] for index, subject in enumerate(subjects)}
    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_sizes(left, rows, colours)
    draw_parameters(right, rows, colours)
    for ax in (left, right):
        ax.set_ylabel("images/s")
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colours[subject], linewidth=2, label=subject) for subject in subjects]
    handles += [Line2D([], [], color="0.4", label=TITLES[mode], **STYLES[mode]) for mode in modes]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def draw_sizes(ax: Axes, rows: Sequence[dict], colours: dict[str, str]) -> None:
    sizes = sorted({row["size"] for row in rows})
    for subject, colour in colours.items():
        for mode, style in STYLES.items():
            points = sorted(
                (row["size"], row["images_per_second"], row["images_per_second"] * (row["spread"] or 0) / 2)
                for row in rows
                if (row["subject"], row["mode"]) == (subject, mode)
            )
            if points:
                xs, ys, errors = zip(*points, strict=True)
                ax.errorbar(xs, ys, yerr=errors, color=colour, markersize=4, linewidth=1.6, capsize=2, **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("side of the image (pixels)")
    ax.set_title("speed against size", fontsize=11)


def draw_parameters(ax: Axes, rows: Sequence[dict], colours: dict[str, str]) -> None:
    size = largest_common_size(rows)
    for row in rows:
        if row["size"] == size:
            marker = STYLES[row["mode"]]["marker"]
            millions = row["parameters"] / 1e6
            ax.plot(millions, row["images_per_second"], marker, color=colours[row["subject"]], markersize=7)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("parameters (millions)")
    ax.set_title(f"speed against parameters, {size}×{size}", fontsize=11)


def largest_common_size(rows: Sequence[dict]) -> int:
    """The largest size at which every subject was measured, else the smallest of all."""
    subjects = {row["subject"] for row in rows}
    sizes = {row["size"] for row in rows}
    common = [size for size in sizes if {row["subject"] for row in rows if row["size"] == size} == subjects]
    return max(common, default=min(sizes))
