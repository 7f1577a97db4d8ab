"""Panoptic quality against cases worked out by hand and against a naive count over masks."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from hybrid_dense.evaluation.panoptic import Segment, compare_maps

CLASSES = ("cat", "dog", "sky")
CATEGORIES = [
    dict(id=17, name="cat", isthing=1),
    dict(id=18, name="dog", isthing=1),
    dict(id=187, name="sky", isthing=0),
]


def figures(truth, segments, prediction, found):
    tallies = compare_maps(np.array(truth), segments, np.array(prediction), found)
    return {label: (round(t.iou, 6), t.tp, t.fp, t.fn) for label, t in tallies.by_class.items()}


def test_equal_maps_match_with_iou_one():
    ids = [[1, 1, 2], [3, 3, 3]]
    segments = [Segment(1, 0), Segment(2, 0), Segment(3, 2)]
    assert figures(ids, segments, ids, segments) == {0: (2.0, 2, 0, 0), 2: (1.0, 1, 0, 0)}


def test_an_iou_of_one_half_is_no_match():
    assert figures([[1, 1, 0, 0]], [Segment(1, 0)], [[9, 0, 0, 0]], [Segment(9, 0)]) == {0: (0, 0, 1, 1)}
    assert figures([[1, 1, 1, 0]], [Segment(1, 0)], [[9, 9, 0, 0]], [Segment(9, 0)]) == {0: (round(2 / 3, 6), 1, 0, 0)}


def test_another_class_is_a_miss_and_a_false_alarm():
    assert figures([[1, 1]], [Segment(1, 0)], [[9, 9]], [Segment(9, 1)]) == {0: (0, 0, 0, 1), 1: (0, 0, 1, 0)}


def test_pixels_without_truth_count_for_no_union():
    """Three of the prediction's five pixels lie on nothing: the IoU is 2 / 2."""
    assert figures([[1, 1, 0, 0, 0]], [Segment(1, 0)], [[9, 9, 9, 9, 9]], [Segment(9, 0)]) == {0: (1.0, 1, 0, 0)}


@pytest.mark.parametrize(("label", "expected"), [(0, {}), (1, {1: (0, 0, 1, 0)})])
def test_a_prediction_on_a_crowd_of_its_class_is_ignored(label, expected):
    crowd = [Segment(1, 0, crowd=True)]
    assert figures([[1, 1, 1, 1]], crowd, [[9, 9, 9, 0]], [Segment(9, label)]) == expected


def test_a_prediction_on_nothing_is_ignored_where_more_than_half_of_it_is():
    truth, segments = [[1, 0, 0, 0]], [Segment(1, 1)]
    assert figures(truth, segments, [[9, 9, 9, 8]], [Segment(9, 0)])[1] == (0, 0, 0, 1)
    assert 0 not in figures(truth, segments, [[9, 9, 9, 8]], [Segment(9, 0)])


def naive(truth, segments, prediction, found):
    """Mask by mask, for maps without crowds."""
    counts = {label: [0.0, 0, 0, 0] for label in range(3)}
    used = set()
    for segment in segments:
        mask, hit = truth == segment.id, False
        for other in found:
            guess = (prediction == other.id) & (truth != 0)
            iou = (mask & guess).sum() / (mask | guess).sum()
            if other.label == segment.label and iou > 0.5:
                counts[segment.label][0] += iou
                counts[segment.label][1] += 1
                hit = True
                used.add(other.id)
        counts[segment.label][3] += not hit
    for other in found:
        guess = prediction == other.id
        if other.id not in used and (guess & (truth == 0)).sum() <= 0.5 * guess.sum():
            counts[other.label][2] += 1
    return counts


def draw_map(generator, first):
    """Twelve random rectangles, later ones over earlier ones; about half the pixels stay 0."""
    ids = np.zeros((40, 50), np.int64)
    for index in range(12):
        top, left = generator.integers(0, 35), generator.integers(0, 45)
        ids[top : top + generator.integers(3, 15), left : left + generator.integers(3, 15)] = first + index
    return ids, [Segment(int(i), int(i) % 3) for i in np.unique(ids) if i]


@pytest.mark.parametrize("seed", range(20))
def test_random_maps_as_counted_mask_by_mask(seed):
    generator = np.random.default_rng(seed)
    truth, segments = draw_map(generator, 1)
    if seed % 2:
        prediction, found = draw_map(generator, 1)
    else:  # the truth, moved by a pixel: most of it matches
        prediction, found = np.roll(truth, 1, axis=1), segments
    tallies = compare_maps(truth, segments, prediction, [s for s in found if (prediction == s.id).any()])
    expected = naive(truth, segments, prediction, [s for s in found if (prediction == s.id).any()])
    for label, (iou, tp, fp, fn) in expected.items():
        tally = tallies[label]
        assert (tally.tp, tally.fp, tally.fn) == (tp, fp, fn)
        assert tally.iou == pytest.approx(iou)
    assert seed % 2 or sum(tally.tp for tally in tallies.by_class.values()) > 3


@pytest.fixture
def metric(tmp_path):
    """Of one image: a cat of 2×4 pixels above a dog of 1×4 and sky of 1×4."""
    ids = np.repeat([[70000], [70000], [300], [5]], 4, axis=1)
    rgb = np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=-1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), rgb[..., ::-1])
    segments = [dict(id=i, category_id=c, iscrowd=0) for i, c in ((70000, 17), (300, 18), (5, 187))]
    content = dict(
        annotations=[dict(image_id=4, file_name="one.png", segments_info=segments)], categories=CATEGORIES, images=[]
    )
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    config = dict(type="PanopticQualityMetric", ann_file=str(tmp_path / "panoptic.json"), seg_prefix=str(tmp_path))
    metric = METRICS.build(config)
    metric.dataset_meta = dict(classes=CLASSES)
    return metric


def sample(rows, image=4):
    return dict(img_id=image, pred_panoptic_seg=dict(sem_seg=torch.tensor(rows)[:, None].expand(-1, 4)[None]))


def test_figures_of_a_data_set(metric):
    metric.process({}, [sample([1000, 1000, 2002, 2])])  # the cat is right, the dog taken for sky beside the sky
    result = metric.evaluate(1)
    assert result["panoptic/PQ"] == pytest.approx((100 + 0 + 100 / 1.5) / 3)
    assert result["panoptic/PQ_th"] == pytest.approx(50)
    assert result["panoptic/PQ_st"] == pytest.approx(100 / 1.5)
    assert result["panoptic/SQ_st"] == pytest.approx(100)
    assert metric.class_tables[0].rows["dog"]["PQ"] == 0
    assert metric.class_tables[0].ranked() == ["cat", "sky", "dog"]


def test_void_of_the_prediction_is_no_segment(metric):
    metric.process({}, [sample([1000, 1000, 3, 3])])  # class 3 of three is nothing
    assert metric.evaluate(1)["panoptic/PQ"] == pytest.approx(100 / 3)


def test_what_is_missing_is_named(metric, tmp_path):
    with pytest.raises(ValueError, match="has no annotation of image 9"):
        metric.process({}, [sample([1, 1, 1, 1], image=9)])
    (tmp_path / "one.png").unlink()
    with pytest.raises(FileNotFoundError, match="no panoptic map .*one.png"):
        metric.process({}, [sample([1, 1, 1, 1])])
    metric.dataset_meta = dict(classes=("cat", "cow"))
    metric._truth = None
    with pytest.raises(ValueError, match="does not know the classes cow"):
        metric.process({}, [sample([1, 1, 1, 1])])
