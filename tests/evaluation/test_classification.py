"""Accuracy, precision, recall and F1 against cases computed by hand, and against scikit-learn where it is installed."""

import numpy as np
import pytest
from mmengine.evaluator import Evaluator

from hybrid_dense.evaluation.classification import ClassificationMetric, confusion_matrix

CLASSES = ("cat", "dog", "ship")


def evaluate(truth, predicted, classes=CLASSES, batch: int = 4) -> tuple[dict, list]:
    metric = ClassificationMetric()
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=classes)
    samples = [dict(gt_label=label, pred_label=found) for label, found in zip(truth, predicted, strict=True)]
    for start in range(0, len(samples), batch):
        evaluator.process(samples[start : start + batch])
    return evaluator.evaluate(len(samples)), metric.class_tables


def test_figures_are_those_computed_by_hand():
    #           cat           dog        ship
    truth = [0, 0, 0, 0] + [1, 1, 1] + [2, 2, 2]
    predicted = [0, 0, 0, 1] + [1, 0, 0] + [2, 2, 2]
    figures, (table,) = evaluate(truth, predicted)
    assert figures["accuracy"] == pytest.approx(7 / 10)
    assert figures["precision"] == pytest.approx((3 / 5 + 1 / 2 + 1) / 3)
    assert figures["recall"] == pytest.approx((3 / 4 + 1 / 3 + 1) / 3)
    assert figures["f1"] == pytest.approx((2 / 3 + 2 / 5 + 1) / 3)
    assert table.rows["cat"] == pytest.approx(dict(f1=2 / 3, precision=3 / 5, recall=3 / 4, images=4))
    assert table.ranked() == ["ship", "cat", "dog"]


def test_what_cannot_be_divided_counts_as_nothing():
    figures, (table,) = evaluate([0, 0, 1], [0, 0, 0])
    assert table.rows["dog"] == dict(f1=0.0, precision=0.0, recall=0.0, images=1)
    assert table.rows["ship"] == dict(f1=0.0, precision=0.0, recall=0.0, images=0)
    assert figures["precision"] == pytest.approx(2 / 3 / 3)
    assert figures["recall"] == pytest.approx(1 / 3)


def test_accuracy_comes_first_for_save_best():
    assert next(iter(evaluate([0, 1], [0, 1])[0])) == "accuracy"


def test_rows_are_the_truth():
    assert confusion_matrix(np.array([[0, 1], [0, 1], [2, 0]]), 3).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


def test_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 3, (2, 100)).tolist()
    figures, _ = evaluate(truth, predicted)
    wanted = metrics.precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    assert [figures["precision"], figures["recall"], figures["f1"]] == pytest.approx(wanted[:3])
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
