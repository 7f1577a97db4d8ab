"""What an image contributed: the figure of any resample equals that of the host's metric on the resampled images."""

import numpy as np
import pytest
import torch
from mmdet.evaluation import VOCMetric
from mmengine.evaluator import BaseMetric
from mmseg.evaluation import IoUMetric

from hybrid_dense.evaluation.classification import ClassificationMetric
from hybrid_dense.evaluation.iou_mmseg import DetailedIoUMetric
from hybrid_dense.evaluation.voc_mmdet import DetailedVOCMetric
from hybrid_dense.study.scores import load_scores, register_host_scores, save_scores, scores_of

IMAGES = 12
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module", autouse=True)
def hosts():
    register_host_scores("mmdet")
    register_host_scores("mmseg")
    register_host_scores("mmengine")


@pytest.fixture
def resamples():
    """Indices of drawn images, and the weights that say the same: (5, images) each; the first draw is all images."""
    drawn = np.random.default_rng(0).integers(IMAGES, size=(5, IMAGES))
    drawn[0] = np.arange(IMAGES)
    return drawn, np.stack([np.bincount(row, minlength=IMAGES) for row in drawn]).astype(float)


def segmentation_results() -> list:
    random = np.random.default_rng(1)
    found = []
    for _ in range(IMAGES):
        label = torch.from_numpy(random.integers(0, 2 if random.random() < 0.5 else 3, (9, 9)))
        predicted = torch.where(torch.from_numpy(random.random((9, 9)) < 0.6), label, (label + 1) % 3)
        label[0] = 255
        found.append(IoUMetric.intersect_and_union(predicted, label, 3, 255))
    return found


def detection_results() -> list:
    random = np.random.default_rng(2)

    def boxes(count):
        corners = random.uniform(0, 60, (count, 2))
        return np.hstack([corners, corners + random.uniform(10, 40, (count, 2))]).astype(np.float32)

    found = []
    for _ in range(IMAGES):
        truth, ignored = boxes(random.integers(0, 5)), boxes(random.integers(0, 2))
        labels, ignored_labels = (random.integers(0, 3, len(some)) for some in (truth, ignored))
        predicted = []
        for label in range(3):
            near = truth[labels == label] + random.normal(0, 1.5, (int((labels == label).sum()), 4))
            some = np.vstack([near, boxes(random.integers(0, 4))])
            predicted.append(np.hstack([some, random.random((len(some), 1))]).astype(np.float32))
        truth = dict(labels=labels, bboxes=truth, bboxes_ignore=ignored, labels_ignore=ignored_labels)
        found.append((truth, predicted))
    return found


@pytest.mark.parametrize("kind", [IoUMetric, DetailedIoUMetric])
def test_mean_iou_of_resampled_images_is_the_hosts(kind, resamples):
    metric, results = kind(iou_metrics=["mIoU"]), segmentation_results()
    metric.dataset_meta = dict(classes=CLASSES)
    drawn, weights = resamples
    expected = [metric.compute_metrics([results[index] for index in row])["mIoU"] / 100 for row in drawn]
    np.testing.assert_allclose(scores_of(metric, results, "mIoU").measure(weights), expected, atol=6e-5)  # it rounds
    assert scores_of(metric, results, "aAcc") is None


@pytest.mark.parametrize("mode", ["area", "11points"])
@pytest.mark.parametrize("key", ["AP50", "mAP"])
def test_average_precision_of_resampled_images_is_the_hosts(mode, key, resamples):
    metric, results = DetailedVOCMetric(eval_mode=mode, iou_thrs=[0.5, 0.75]), detection_results()
    metric.dataset_meta = dict(classes=CLASSES)
    drawn, weights = (part[:2] for part in resamples)  # the host starts processes for every class and size
    expected = [metric.compute_metrics([results[index] for index in row])[key] for row in drawn]
    assert 0.1 < expected[0] < 0.9
    np.testing.assert_allclose(scores_of(metric, results, key).measure(weights), expected, atol=1e-6)
    assert scores_of(metric, results, "AP60") is None


def test_average_precision_without_any_object_is_nothing(resamples):
    metric = VOCMetric()
    nothing = dict(labels=np.zeros(0, int), bboxes=np.zeros((0, 4)))
    nothing |= dict(labels_ignore=np.zeros(0, int), bboxes_ignore=np.zeros((0, 4)))
    results = [(nothing, [np.zeros((0, 5), np.float32)] * 3)] * IMAGES
    assert scores_of(metric, results, "AP50").measure(resamples[1]).tolist() == [0.0] * 5


def test_accuracy_of_resampled_images(resamples):
    metric = ClassificationMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    results = [(index % 3, index % 2) for index in range(IMAGES)]
    drawn, weights = resamples
    expected = [metric.compute_metrics([results[index] for index in row])["accuracy"] for row in drawn]
    np.testing.assert_allclose(scores_of(metric, results, "accuracy").measure(weights), expected)
    assert scores_of(metric, results, "f1") is None


def test_an_unknown_metric_has_no_scores():
    class Other(BaseMetric):
        def process(self, data_batch, data_samples): ...
        def compute_metrics(self, results): ...

    assert scores_of(Other(), [], "mIoU") is None


def test_saved_scores_come_back_small_and_without_pickles(tmp_path, resamples):
    metric = DetailedVOCMetric()
    kept = dict(
        val=scores_of(metric, detection_results(), "AP50"),
        test=scores_of(IoUMetric(), segmentation_results(), "mIoU"),
    )
    save_scores(tmp_path / "per_image.npz", kept)
    back = load_scores(tmp_path / "per_image.npz")
    assert back.keys() == kept.keys()
    for split, scores in kept.items():
        assert type(back[split]) is type(scores)
        np.testing.assert_array_equal(back[split].measure(resamples[1]), scores.measure(resamples[1]))
    assert (tmp_path / "per_image.npz").stat().st_size < 10_000
    assert load_scores(tmp_path / "none.npz") == {}
