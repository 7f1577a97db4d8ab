"""VOC's mAP against the computation written out box by box."""

import numpy as np
import pytest
import torch
from mmdet.evaluation import VOCMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation import register_host_metrics

CLASSES = ("aeroplane", "bicycle", "bird")
BUCKETS = {"": (-np.inf, np.inf), "_s": (0, 32**2), "_m": (32**2, 96**2), "_l": (96**2, np.inf)}


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_host_metrics("mmdet")


@pytest.fixture(scope="module")
def images() -> list[dict]:
    """Twelve images; a fifth of the objects is difficult; the last class has none. No two scores are the same."""
    generator = np.random.default_rng(1)
    scores = iter(generator.permutation(2000) / 2000)
    made = []
    for number in range(12):
        count = 0 if number == 4 else generator.integers(1, 7)
        corners = generator.uniform(0, 300, (count, 2))
        boxes = np.hstack([corners, corners + generator.choice([15, 50, 140], (count, 1)) * (1 + corners % 0.3)])
        labels = generator.integers(0, 2, count)
        found = np.vstack([boxes + generator.normal(0, 4, boxes.shape), boxes + generator.normal(0, 9, boxes.shape)])
        found = np.vstack([found, [[10.0, 10, 60 + number, 70]]])
        made.append(
            dict(
                boxes=boxes.round(),
                labels=labels,
                difficult=generator.random(count) < 0.2,
                found=found.round(),
                found_labels=np.concatenate([labels, labels, [2]]),
                scores=np.array([next(scores) for _ in found]),
            )
        )
    return made


def evaluate(metric, images) -> dict[str, float]:
    metric.dataset_meta = dict(classes=CLASSES)
    for image in images:
        easy, hard = (
            dict(bboxes=torch.tensor(image["boxes"][which]), labels=torch.tensor(image["labels"][which]))
            for which in (~image["difficult"], image["difficult"])
        )
        predictions = dict(
            bboxes=torch.tensor(image["found"]),
            scores=torch.tensor(image["scores"]),
            labels=torch.tensor(image["found_labels"]),
        )
        metric.process({}, [dict(gt_instances=easy, ignored_instances=hard, pred_instances=predictions)])
    return metric.evaluate(len(images))


def overlap(a, b) -> float:
    """IoU of two boxes whose last pixel is x2, y2."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (area(a) + area(b) - w * h)


def area(box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def average_precision(images, label: int, threshold: float, mode: str, bucket: tuple[float, float]) -> float:
    """As in the devkit's VOCevaldet.m, with objects outside the bucket treated as difficult ones.

    A detection outside the bucket that matches nothing counts for nothing, as in COCO.
    """
    detections, objects, taken = [], 0, set()
    for number, image in enumerate(images):
        easy = (image["labels"] == label) & ~image["difficult"]
        objects += sum(bucket[0] <= area(box) < bucket[1] for box in image["boxes"][easy])
        chosen = image["found_labels"] == label
        detections += [(s, number, b) for s, b in zip(image["scores"][chosen], image["found"][chosen], strict=True)]
    if objects == 0:
        return float("nan")
    hits = []
    for _, number, box in sorted(detections, key=lambda entry: -entry[0]):
        image = images[number]
        candidates = np.flatnonzero(image["labels"] == label)
        best = max(candidates, key=lambda index: overlap(box, image["boxes"][index]), default=None)
        if best is None or overlap(box, image["boxes"][best]) < threshold:
            if bucket[0] <= area(box) < bucket[1]:
                hits.append(False)
        elif not image["difficult"][best] and bucket[0] <= area(image["boxes"][best]) < bucket[1]:
            hits.append((number, best) not in taken)
            taken.add((number, best))
    recalls, precisions, right = [0.0], [], 0
    for count, hit in enumerate(hits, 1):
        right += hit
        recalls.append(right / objects)
        precisions.append(right / count)
    if mode == "11points":
        reached = [[p for r, p in zip(recalls[1:], precisions, strict=True) if r >= t * 0.1] for t in range(11)]
        return sum(max(values, default=0.0) for values in reached) / 11
    best_from = [max(precisions[index:]) for index in range(len(precisions))]
    return sum((recalls[index + 1] - recalls[index]) * best_from[index] for index in range(len(precisions)))


@pytest.mark.parametrize("mode", ["11points", "area"])
def test_every_class_and_size_is_the_computation_written_out(images, mode):
    metric = METRICS.build(dict(type="DetailedVOCMetric", eval_mode=mode, iou_thrs=[0.5, 0.7]))
    found = evaluate(metric, images)
    rows = metric.class_tables[0].rows
    for percent in (50, 70):
        for suffix, bucket in BUCKETS.items():
            expected = [average_precision(images, label, percent / 100, mode, bucket) for label in range(3)]
            values = [rows[name][f"AP{percent}{suffix}"] for name in CLASSES]
            np.testing.assert_allclose(values, expected, atol=1e-6)  # the host keeps AP in float32
            assert found[f"pascal_voc/AP{percent}{suffix}"] == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert found["pascal_voc/mAP"] == pytest.approx((found["pascal_voc/AP50"] + found["pascal_voc/AP70"]) / 2)
    assert 0.1 < found["pascal_voc/AP70"] < found["pascal_voc/AP50"] < 0.95
    assert next(iter(found)) == "pascal_voc/mAP"


@pytest.mark.parametrize("mode", ["11points", "area"])
def test_the_figures_are_those_of_the_host(images, mode):
    host = evaluate(VOCMetric(eval_mode=mode, iou_thrs=[0.5]), images)
    ours = evaluate(METRICS.build(dict(type="DetailedVOCMetric", eval_mode=mode, iou_thrs=[0.5])), images)
    assert ours["pascal_voc/mAP"] == pytest.approx(host["pascal_voc/mAP"], abs=1e-6)
    assert ours["pascal_voc/AP50"] == pytest.approx(host["pascal_voc/AP50"], abs=5.1e-4)


def test_the_two_modes_differ(images):
    modes = [evaluate(METRICS.build(dict(type="DetailedVOCMetric", eval_mode=m)), images) for m in ("area", "11points")]
    assert abs(modes[0]["pascal_voc/mAP"] - modes[1]["pascal_voc/mAP"]) > 1e-3


def test_a_class_without_objects_does_not_count_and_difficult_ones_neither(images):
    metric = METRICS.build(dict(type="DetailedVOCMetric"))
    evaluate(metric, images)
    table = metric.class_tables[0]
    assert "bird" not in table.ranked() and table.rows["bird"]["detections"] == 12
    easy = sum(((image["labels"] == 0) & ~image["difficult"]).sum() for image in images)
    assert table.rows["aeroplane"]["objects"] == easy


@pytest.mark.parametrize("options", [dict(metric="recall"), dict(scale_ranges=[(0, 32)])], ids=str)
def test_what_it_does_not_measure_is_one_line(options):
    with pytest.raises(ValueError, match=f"has no {next(iter(options))}"):
        METRICS.build(dict(type="DetailedVOCMetric", **options))
