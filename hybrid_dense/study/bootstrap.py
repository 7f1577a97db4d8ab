"""How far a difference between models is beyond chance: the bootstrap over images and over seeds.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8 (pairs), 13 (percentiles).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_dense.study.scores import Scores

RESAMPLES = 10_000
BOUNDS = (2.5, 97.5)  # percentiles
NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Reference minus other; ``p`` is the share of the resamples in which the reference is not the better one."""

    p: float


@dataclass(frozen=True)
class Comparison:
    """Each model's figure, and by how much the reference is above each of the others."""

    models: dict[str, Interval]
    above: dict[str, Difference]


def compare(
    models: Mapping[str, Sequence[Scores]],
    reference: str,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Bootstrap the mean over seeds of every model, and its difference to that of the reference.

    Images are drawn with replacement, the same ones for all models and seeds (a paired bootstrap), and of each model
    as many seeds as it has, with replacement. A few seeds vary less among themselves than seeds do: with s of them the
    variance between seeds comes out (s - 1) / s of what it is, and with one it is not seen at all.

    Args:
        models: name → scores on the same images, one for each seed.
        reference: the model that the others are compared with; where it is missing nothing is compared.
        higher_is_better: of the figure.
        resamples: number of resamples.
        seed: of the random numbers.

    Raises:
        ValueError: not all scores are of the same number of images.
    """
    counts = {scores.images for seeds in models.values() for scores in seeds}
    if len(counts) != 1:
        raise ValueError(f"scores of different images cannot be compared: {sorted(counts)} of them")
    random = np.random.default_rng(seed)
    images = counts.pop()
    width = max(scores.width for seeds in models.values() for scores in seeds)
    figures = {name: [] for name in models}
    for weights in draw_images(random, images, resamples, max(1, NUMBERS_AT_ONCE // width)):
        for name, seeds in models.items():
            figures[name].append(np.stack([scores.measure(weights) for scores in seeds]))
    whole = np.ones((1, images))
    values = {name: float(np.mean([scores.measure(whole) for scores in seeds])) for name, seeds in models.items()}
    means = {name: _mean_of_drawn_seeds(random, np.concatenate(parts, axis=1)) for name, parts in figures.items()}
    above = {}
    for name in models:
        if reference in models and name != reference:
            differences = means[reference] - means[name]
            behind = differences <= 0 if higher_is_better else differences >= 0
            bounds = np.percentile(differences, BOUNDS).tolist()
            above[name] = Difference(values[reference] - values[name], *bounds, float(behind.mean()))
    intervals = {name: Interval(values[name], *np.percentile(means[name], BOUNDS).tolist()) for name in models}
    return Comparison(intervals, above)


def draw_images(random: np.random.Generator, images: int, resamples: int, at_once: int) -> Iterator[np.ndarray]:
    """How often each image is in each resample, in parts of (at most ``at_once``, images)."""
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def _mean_of_drawn_seeds(random: np.random.Generator, figures: np.ndarray) -> np.ndarray:
    """(seeds, resamples) to (resamples,)."""
    drawn = random.integers(len(figures), size=figures.shape)
    return np.take_along_axis(figures, drawn, axis=0).mean(0)
