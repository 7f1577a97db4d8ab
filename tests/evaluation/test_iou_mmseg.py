"""DetailedIoUMetric against a confusion matrix."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric

from hybrid_dense.evaluation import register_host_metrics
from hybrid_dense.evaluation.regions import count_by_region_size

CLASSES = ("road", "car", "sign", "train", "boat")


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_host_metrics("mmseg")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(predicted, labelled) maps of several sizes: trains are labelled and never found, boats are nowhere."""
    generator = np.random.default_rng(0)
    made = []
    for size in ((20, 30), (31, 17), (25, 25)):
        labelled = generator.choice(4, size, p=(0.7, 0.15, 0.1, 0.05))
        predicted = np.where(generator.random(size) < 0.7, labelled, generator.integers(0, 3, size))
        predicted[predicted == 3] = 0
        labelled[generator.random(size) < 0.05] = 255
        made.append((predicted, labelled))
    return made


def evaluate(metric, pairs) -> dict[str, float]:
    metric.dataset_meta = dict(classes=CLASSES)
    for predicted, labelled in pairs:
        data = [dict(data=torch.from_numpy(labels)[None]) for labels in (predicted, labelled)]
        metric.process({}, [dict(pred_sem_seg=data[0], gt_sem_seg=data[1])])
    return metric.evaluate(len(pairs))


@pytest.fixture(scope="module")
def confusion(pairs) -> np.ndarray:
    """Pixels by (label, prediction)."""
    counted = np.zeros((5, 5), int)
    for predicted, labelled in pairs:
        for label, prediction in zip(labelled.ravel(), predicted.ravel(), strict=True):
            if label != 255:
                counted[label, prediction] += 1
    return counted


def test_all_figures_are_those_of_the_confusion_matrix(pairs, confusion):
    metric = METRICS.build(dict(type="DetailedIoUMetric"))
    found = evaluate(metric, pairs)
    assert next(iter(found)) == "mIoU", "save_best='auto' takes the first figure"
    right, labelled, predicted = np.diag(confusion)[:4], confusion.sum(1)[:4], confusion.sum(0)[:4]
    columns = {
        "IoU": right / (labelled + predicted - right),
        "Acc": right / labelled,
        "Fscore": 2 * right / (labelled + predicted),
        "Recall": right / labelled,
        "Precision": right[:3] / predicted[:3],  # trains were never predicted
    }
    for name, values in columns.items():
        assert found[f"m{name}"] == pytest.approx(100 * values.mean(), abs=0.00501), name
        rows = metric.class_tables[0].rows
        assert [rows[c][name] for c in CLASSES[: len(values)]] == pytest.approx(100 * values, abs=1e-9), name
        assert np.isnan(rows["boat"][name]), "a class that is nowhere says nothing"
    assert found["aAcc"] == pytest.approx(100 * right.sum() / labelled.sum(), abs=0.00501)
    assert [rows[c]["pixels"] for c in CLASSES] == confusion.sum(1).tolist()
    assert metric.class_tables[0].ranked()[-1] == "train"


def test_the_host_agrees_but_leaves_the_missed_class_out_of_its_f_score(pairs):
    host = evaluate(IoUMetric(iou_metrics=["mIoU", "mDice", "mFscore"]), pairs)
    ours = evaluate(METRICS.build(dict(type="DetailedIoUMetric", iou_metrics=["mIoU", "mDice", "mFscore"])), pairs)
    assert {k: v for k, v in ours.items() if k != "mFscore"} == {k: v for k, v in host.items() if k != "mFscore"}
    assert ours["mFscore"] == ours["mDice"] == pytest.approx(0.75 * host["mFscore"], abs=0.01)


@pytest.mark.parametrize("beta", [1, 2])
def test_f_score_weighs_recall_by_beta(pairs, confusion, beta):
    metric = METRICS.build(dict(type="DetailedIoUMetric", beta=beta))
    evaluate(metric, pairs)
    rows = metric.class_tables[0].rows
    for name in CLASSES[:3]:
        precision, recall = rows[name]["Precision"], rows[name]["Recall"]
        expected = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
        assert rows[name]["Fscore"] == pytest.approx(expected)


def test_nan_to_num_reaches_the_f_score(pairs):
    metric = METRICS.build(dict(type="DetailedIoUMetric", nan_to_num=0))
    evaluate(metric, pairs)
    assert metric.class_tables[0].rows["boat"]["Fscore"] == 0


def test_sums_are_exact_over_many_large_images():
    """300 images of 2²⁰ pixels: 3.1e8 labelled road, one pixel in each found as a car."""
    metric = METRICS.build(dict(type="DetailedIoUMetric"))
    metric.dataset_meta = dict(classes=CLASSES)
    areas = torch.tensor([2.0**20 - 1, 0, 0, 0, 0])
    union, predicted = torch.tensor([2.0**20, 1, 0, 0, 0]), torch.tensor([2.0**20 - 1, 1, 0, 0, 0])
    labelled = torch.tensor([2.0**20, 0, 0, 0, 0])
    metric.compute_metrics([(areas, union, predicted, labelled)] * 300)
    row = metric.class_tables[0].rows["road"]
    assert row["Acc"] == pytest.approx(100 * (1 - 2.0**-20), abs=1e-10)
    assert row["pixels"] == 300 * 2**20


def test_counts_are_the_hosts_for_values_that_are_no_class():
    """Labels and predictions from -2 to 7 of 5 classes, and a label in the middle that is ignored."""
    generator = torch.Generator().manual_seed(0)
    labelled, predicted = torch.randint(-2, 8, (2, 60, 70), generator=generator)
    metric = METRICS.build(dict(type="DetailedIoUMetric", ignore_index=3))
    ours = metric.intersect_and_union(predicted, labelled, 5, 3)
    host = IoUMetric.intersect_and_union(predicted, labelled, 5, 3)
    for mine, theirs in zip(ours, host, strict=True):
        assert mine.tolist() == theirs.tolist() and mine.dtype == torch.int64
    assert host[2][3] > 0 == host[3][3], "class 3 is found, and where it is labelled nothing counts"
    small = metric.intersect_and_union(predicted.to(torch.int8), labelled.to(torch.int8), 5, 3)
    assert [part.tolist() for part in small] == [part.tolist() for part in ours]


@pytest.mark.parametrize("options", [{}, dict(region_sizes=True)])
def test_an_image_leaves_counts_behind_and_no_map(options):
    """What is kept has one size for images of 1,000 and of 4 million pixels, storages of views counted whole."""
    kept = []
    for side in (32, 2048):
        metric = METRICS.build(dict(type="DetailedIoUMetric", **options))
        metric.dataset_meta = dict(classes=CLASSES)
        data = [dict(data=torch.full((1, side, side), label)) for label in (0, 1)]
        metric.process({}, [dict(pred_sem_seg=data[0], gt_sem_seg=data[1])])
        kept.append([counts.untyped_storage().nbytes() for counts in metric.results[0]])
    assert kept[0] == kept[1]
    assert sum(kept[0][:4]) == 4 * len(CLASSES) * 8, "four int64 a class"


def flood(labels: np.ndarray, start: tuple[int, int], left: set) -> set:
    """The region of ``start``, taken out of ``left``."""
    region, open_ends = set(), [start]
    left.discard(start)
    while open_ends:
        y, x = open_ends.pop()
        region.add((y, x))
        for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
            if near in left and labels[near] == labels[start]:
                left.discard(near)
                open_ends.append(near)
    return region


def test_pixels_by_region_size_are_those_of_flood_fill():
    generator = np.random.default_rng(0)
    labelled = np.kron(generator.choice(3, (5, 6), p=(0.6, 0.2, 0.2)), np.ones((30, 30), int))
    labelled[generator.random(labelled.shape) < 0.01] = 255
    labelled[:3] = 4
    predicted = np.where(generator.random(labelled.shape) < 0.8, labelled, 0)
    expected = np.zeros((5, 3, 2), int)
    left = {(int(y), int(x)) for y, x in np.argwhere(labelled != 255)}
    while left:
        start = next(iter(left))
        region = flood(labelled, start, left)
        size = 0 if len(region) < 1024 else 1 if len(region) < 9216 else 2
        right = sum(predicted[pixel] == labelled[start] for pixel in region)
        expected[labelled[start], size] += (right, len(region))
    assert (expected[:, :, 1] > 0).sum(0).min() > 0, "all sizes"
    np.testing.assert_array_equal(count_by_region_size(predicted, labelled, 5), expected)


def test_region_sizes_are_columns_and_figures(pairs, confusion):
    metric = METRICS.build(dict(type="DetailedIoUMetric", region_sizes=True))
    found = evaluate(metric, pairs)
    rows = metric.class_tables[0].rows
    for label, name in enumerate(CLASSES[:4]):
        # All regions of these maps are small.
        assert rows[name]["Acc_s"] == pytest.approx(100 * confusion[label, label] / confusion[label].sum())
        assert np.isnan(rows[name]["Acc_l"])
    assert found["mAcc_s"] == pytest.approx(found["mAcc"], abs=0.00501) and np.isnan(found["mAcc_l"])
    assert "mAcc_s" not in evaluate(METRICS.build(dict(type="DetailedIoUMetric")), pairs)
