"""What each image contributed to a figure, so that the figure of any resample of the images can be computed.

A resample is a weight for each image: how often it is in it. All kinds answer ``measure(weights)``, (b, n) to (b,), and
with weights of 1 give the evaluator's own figure.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import singledispatch
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook

from hybrid_dense.evaluation.classification import ClassificationMetric


@dataclass(frozen=True)
class Areas:
    """mIoU: pixels of intersection and union, (n images, classes) each."""

    intersect: np.ndarray
    union: np.ndarray

    @property
    def images(self) -> int:
        return len(self.union)

    @property
    def width(self) -> int:
        """Numbers that one resample takes in memory."""
        return self.images

    def measure(self, weights: np.ndarray) -> np.ndarray:
        intersect, union = (weights @ areas.astype(np.float64) for areas in (self.intersect, self.union))
        with np.errstate(invalid="ignore"):
            return np.nanmean(intersect / union, axis=1)


@dataclass(frozen=True)
class Rights:
    """Accuracy: whether each image was classified rightly, (n,)."""

    right: np.ndarray

    @property
    def images(self) -> int:
        return len(self.right)

    @property
    def width(self) -> int:
        return self.images

    def measure(self, weights: np.ndarray) -> np.ndarray:
        return weights @ self.right.astype(np.float64) / weights.sum(1)


@dataclass(frozen=True)
class Matches:
    """Average precision as PASCAL VOC counts it, the mean over classes and thresholds.

    Whether a detection is right does not depend on other images, so a resample only counts each anew.

    Args:
        image, label, score: of each detection, (d,).
        outcome: 1 right, -1 wrong, 0 counts for nothing, (thresholds, d).
        objects: number of objects, (n images, classes).
        points: 11 for the mean over eleven recalls (VOC 2007), 0 for the area under the curve.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    outcome: np.ndarray
    objects: np.ndarray
    points: np.ndarray

    @property
    def images(self) -> int:
        return len(self.objects)

    @property
    def width(self) -> int:
        return max(self.images, len(self.image))

    def measure(self, weights: np.ndarray) -> np.ndarray:
        objects = weights @ self.objects.astype(np.float64)
        classes = [self._precisions(label, weights, objects[:, label]) for label in range(objects.shape[1])]
        known = objects > 0
        # A resample without any object: the host's figure is 0.
        return np.where(known, np.stack(classes, axis=1), 0).sum(1) / np.maximum(known.sum(1), 1)

    def _precisions(self, label: int, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """AP of one class, the mean over thresholds: (b,)."""
        mine = np.flatnonzero(self.label == label)
        mine = mine[np.argsort(-self.score[mine], kind="stable")]
        if not len(mine):
            return np.zeros(len(weights))
        counts = weights[:, self.image[mine]].astype(np.float64)
        values = np.zeros(len(weights))
        for outcome in self.outcome[:, mine]:
            right, wrong = (np.cumsum(counts * (outcome == sign), axis=1) for sign in (1, -1))
            recall = right / np.maximum(objects, 1)[:, None]
            precision = right / np.maximum(right + wrong, 1)
            values += _eleven_points(recall, precision) if self.points == 11 else _area(recall, precision)
        return values / len(self.outcome)


HOSTS = ("mmdet", "mmseg")
Scores = Areas | Rights | Matches
KINDS: dict[str, type] = {kind.__name__: kind for kind in (Areas, Rights, Matches)}


def _area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (np.diff(recall, axis=1, prepend=0) * best).sum(1)


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return sum(np.where(recall >= point, precision, 0).max(1) for point in np.arange(0, 1 + 1e-3, 0.1)) / 11


@singledispatch
def scores_of(metric: object, results: Sequence, key: str) -> Scores | None:
    """The contributions behind ``key``, a figure of an evaluator's metric without its prefix; None: not known how.

    Args:
        metric: decides by its class; `register_host_scores` makes those of a host known.
        results: what the metric kept, one entry an image.
        key: such as ``mIoU`` or ``AP50``.
    """
    return None


@scores_of.register
def _(metric: ClassificationMetric, results: Sequence, key: str) -> Rights | None:
    return Rights(np.array([truth == answer for truth, answer in results])) if key == "accuracy" else None


class KeepResults(Hook):
    """Keeps what each image contributed to a figure of a runner's test: ``scores``, None where it is not known how.

    Args:
        name: the figure as the evaluator calls it, with its prefix.
    """

    def __init__(self, name: str):
        self.name = name
        self.scores: Scores | None = None

    def before_test_epoch(self, runner) -> None:
        for metric in runner.test_evaluator.metrics:
            metric.compute_metrics = functools.partial(self._compute, metric, metric.compute_metrics)

    def _compute(self, metric, compute: Callable[[list], dict], results: list) -> dict:
        prefix = f"{metric.prefix}/" if metric.prefix else ""
        if self.name.startswith(prefix):
            self.scores = self.scores or scores_of(metric, results, self.name.removeprefix(prefix))
        return compute(results)


def register_host_scores(host: str) -> None:
    """Let `scores_of` know the metrics of "mmdet" or "mmseg", which has to be importable; others need nothing."""
    if host in HOSTS:
        importlib.import_module(f"hybrid_dense.study.scores_{host}")


def save_scores(path: Path, splits: dict[str, Scores]) -> None:
    """Write the scores of each split as one compressed `.npz` without pickles."""
    arrays = {}
    for split, scores in splits.items():
        arrays[f"{split}/kind"] = np.array(type(scores).__name__)
        arrays |= {f"{split}/{entry.name}": getattr(scores, entry.name) for entry in fields(scores)}
    np.savez_compressed(path, **arrays)


def load_scores(path: Path) -> dict[str, Scores]:
    """The inverse of `save_scores`; {} where there is no such file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        splits = {name.partition("/")[0] for name in file}
        kinds = {split: KINDS[str(file[f"{split}/kind"])] for split in splits}
        return {
            split: kind(**{entry.name: file[f"{split}/{entry.name}"] for entry in fields(kind)})
            for split, kind in kinds.items()
        }
