"""Boundary IoU against pixels counted one by one, and against faster-coco-eval's boundaries of instance masks."""

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as fast_mask
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from pycocotools import mask as coco_mask

from hybrid_dense.evaluation.boundary import boundary_iou, boundary_pixels, boundary_width

CLASSES = ("ground", "tree", "house", "boat")


def blobs(generator, height: int, width: int, classes: int) -> np.ndarray:
    """A label map of rectangles over each other."""
    labels = np.zeros((height, width), np.uint8)
    for _ in range(6):
        top, left = generator.integers(0, height - 4), generator.integers(0, width - 4)
        labels[top : top + generator.integers(3, height), left : left + generator.integers(3, width)] = (
            generator.integers(0, classes)
        )
    return labels


def naive_boundary(labels: np.ndarray, distance: int, ignored: np.ndarray, label: int) -> set[tuple[int, int]]:
    """Pixels of a label with another label, or the outside, no more than ``distance`` rows and columns away."""
    height, width = labels.shape
    found = set()
    for row, column in zip(*np.nonzero((labels == label) & ~ignored), strict=True):
        for y in range(row - distance, row + distance + 1):
            for x in range(column - distance, column + distance + 1):
                outside = not (0 <= y < height and 0 <= x < width)
                if outside or (not ignored[y, x] and labels[y, x] != label):
                    found.add((int(row), int(column)))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", [1, 3])
def test_boundary_is_what_is_near_another_label(seed, distance):
    generator = np.random.default_rng(seed)
    labels, ignored = blobs(generator, 24, 31, 4), generator.random((24, 31)) < (0.1 if seed % 2 else 0)
    found = boundary_pixels(labels, distance, ignored)
    for label in range(4):
        expected = naive_boundary(labels, distance, ignored, label)
        assert set(map(tuple, np.argwhere(found & (labels == label)).tolist())) == expected


def test_a_small_image_is_all_boundary():
    assert boundary_pixels(np.zeros((5, 2), np.uint8), 3).all()


def test_an_ignored_seam_draws_no_contour():
    labels = np.zeros((40, 40), np.uint8)
    seam = np.zeros_like(labels, bool)
    seam[:, 19:21] = True
    found = boundary_pixels(labels, 3, seam)
    assert not found[3:-3, 3:-3].any() and found[:3, :19].all()


@pytest.mark.parametrize(("size", "expected"), [((480, 640), 16), ((375, 500), 12), ((1024, 2048), 46), ((8, 8), 1)])
def test_width_is_two_percent_of_the_diagonal(size, expected):
    assert boundary_width(*size) == expected


@pytest.mark.parametrize("seed", range(5))
def test_instance_masks_agree_with_faster_coco_eval(seed):
    generator = np.random.default_rng(seed)
    first, second = (blobs(generator, 120, 160, 2) for _ in range(2))
    encoded = [coco_mask.encode(np.asfortranarray(mask)) for mask in (first, second)]
    bands = [fast_mask.rleToBoundary(rle) for rle in encoded]
    expected = coco_mask.iou([bands[0]], [bands[1]], [0])[0, 0]
    assert 0 < boundary_iou(first, second) == pytest.approx(expected, abs=1e-12)


def test_masks_at_the_ends_of_the_scale():
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:70] = True
    assert boundary_iou(mask, mask) == 1
    assert boundary_iou(mask, np.zeros_like(mask)) == 0
    assert np.isnan(boundary_iou(np.zeros_like(mask), np.zeros_like(mask)))


def samples(pairs) -> list[dict]:
    return [
        dict(
            pred_sem_seg=dict(data=torch.from_numpy(predicted.astype(np.int64))[None]),
            gt_sem_seg=dict(data=torch.from_numpy(labelled)[None]),
        )
        for predicted, labelled in pairs
    ]


def evaluate(pairs, **options) -> tuple[dict, dict]:
    metric = METRICS.build(dict(type="BoundaryIoUMetric", **options))
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=CLASSES)
    evaluator.process(samples(pairs), {})
    return evaluator.evaluate(len(pairs)), metric.class_tables[0].rows


def test_the_metric_sums_pixels_over_images():
    generator = np.random.default_rng(3)
    pairs = []
    for height, width in ((30, 40), (41, 25), (33, 33)):
        labelled = blobs(generator, height, width, 3)  # no boat
        predicted = np.roll(labelled, 2, axis=1)
        predicted[:4] = 1
        labelled[generator.random(labelled.shape) < 0.03] = 255
        pairs.append((predicted, labelled))
    figures, rows = evaluate(pairs, share=0.05)
    expected = []
    for label in range(3):
        both = either = 0
        for predicted, labelled in pairs:
            distance, ignored = round(0.05 * np.hypot(*labelled.shape)), labelled == 255
            first = naive_boundary(predicted, distance, ignored, label)
            second = naive_boundary(labelled, distance, ignored, label)
            both, either = both + len(first & second), either + len(first | second)
        expected.append(100 * both / either)
    assert [rows[name]["BIoU"] for name in CLASSES[:3]] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(rows["boat"]["BIoU"]), "a class that is nowhere says nothing"
    assert figures == {"mBIoU": pytest.approx(np.mean(expected))}
    assert 10 < figures["mBIoU"] < 90


def test_it_sees_the_outline_that_mask_iou_does_not():
    labelled = np.zeros((200, 200), np.uint8)
    labelled[20:180, 20:180] = 1
    predicted = np.zeros_like(labelled)
    predicted[25:175, 25:175] = 1
    _, rows = evaluate([(predicted, labelled)])
    mask_iou = 100 * 150**2 / 160**2
    assert mask_iou > 87 and rows["tree"]["BIoU"] < 25


def test_right_everywhere_is_a_hundred():
    labelled = blobs(np.random.default_rng(0), 50, 50, 4)
    assert evaluate([(labelled, labelled)])[0] == {"mBIoU": 100}


def test_a_label_beyond_the_classes_is_one_line():
    labelled = np.full((20, 20), 4, np.uint8)
    with pytest.raises(ValueError, match="labelled 4 to 4, but there are 4 classes") as caught:
        evaluate([(labelled % 4, labelled)])
    assert "\n" not in str(caught.value)


def test_a_map_that_is_ignored_altogether_says_nothing():
    figures, _ = evaluate([(np.zeros((9, 9), np.uint8), np.full((9, 9), 255, np.uint8))])
    assert np.isnan(figures["mBIoU"])


@pytest.mark.parametrize("share", [0, 2, -0.1])
def test_share_is_a_share(share):
    with pytest.raises(ValueError, match="share"):
        METRICS.build(dict(type="BoundaryIoUMetric", share=share))
