"""How often whole images are given the right class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable


@METRICS.register_module()
class ClassificationMetric(BaseMetric):
    """Top-1 accuracy, and precision, recall and F1 averaged over the classes (macro), each a share from 0 to 1.

    A class that is never predicted has precision 0, one that no image shows recall 0, and F1 is 0 where both are: the
    same as scikit-learn's ``precision_recall_fscore_support(average="macro", zero_division=0)``.

    It reads ``dict(pred_label, gt_label)`` of every image and, from the data set, the names of the classes.
    """

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None):
        super().__init__(collect_device, prefix)
        self.class_tables: list[ClassTable] = []

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        self.results += [(sample["gt_label"], sample["pred_label"]) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        classes = self.dataset_meta["classes"]
        counts = confusion_matrix(np.array(results), len(classes))
        measures = class_measures(counts)
        columns = zip(*(values.tolist() for values in measures.values()), strict=True)
        rows = {name: dict(zip(measures, row, strict=True)) for name, row in zip(classes, columns, strict=True)}
        for name, images in zip(classes, counts.sum(axis=1), strict=True):
            rows[name]["images"] = int(images)
        self.class_tables = [ClassTable("classes", rows)]
        means = {name: float(values.mean()) for name, values in measures.items()}
        return dict(
            accuracy=float(np.trace(counts) / counts.sum()),
            precision=means["precision"],
            recall=means["recall"],
            f1=means["f1"],
        )


def confusion_matrix(pairs: np.ndarray, classes: int) -> np.ndarray:
    """(n, 2) true and predicted labels to counts (classes, classes): row the true class, column the predicted one."""
    return np.bincount(pairs[:, 0] * classes + pairs[:, 1], minlength=classes**2).reshape(classes, classes)


def class_measures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """F1, precision and recall of every class, (classes,) each; 0 where a quotient has nothing below."""
    right, predicted, there = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)

    return dict(f1=share(2 * right, predicted + there), precision=share(right, predicted), recall=share(right, there))
