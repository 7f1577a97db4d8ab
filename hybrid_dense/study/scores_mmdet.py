"""What each image contributed to average precision as mmdet's VOCMetric counts it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.evaluation import VOCMetric
from mmdet.evaluation.functional.mean_ap import get_cls_results, tpfp_default

from hybrid_dense.study.scores import Matches, scores_of


@scores_of.register
def _(metric: VOCMetric, results: Sequence, key: str) -> Matches | None:
    thresholds = [iou for iou in metric.iou_thrs if key in ("mAP", f"AP{round(100 * iou):02d}")]
    if metric.metric != "mAP" or not thresholds:
        return None
    truths, predictions = zip(*results, strict=True)
    classes = len(predictions[0])
    objects = np.zeros((len(results), classes), np.uint16)
    parts = []
    for label in range(classes):
        for image, (found, boxes, ignored) in enumerate(zip(*get_cls_results(predictions, truths, label), strict=True)):
            objects[image, label] = len(boxes)
            outcome = [_outcome(found, boxes, ignored, threshold) for threshold in thresholds]
            parts.append((np.full(len(found), image), np.full(len(found), label), found[:, 4], np.stack(outcome)))
    images, labels, scores, outcomes = zip(*parts, strict=True)
    return Matches(
        np.concatenate(images).astype(np.uint32),
        np.concatenate(labels).astype(np.uint16),
        np.concatenate(scores).astype(np.float32),
        np.concatenate(outcomes, axis=1),
        objects,
        np.uint8(11 if metric.eval_mode == "11points" else 0),
    )


def _outcome(found: np.ndarray, boxes: np.ndarray, ignored: np.ndarray, threshold: float) -> np.ndarray:
    """1 right, -1 wrong, 0 counts for nothing: (d,)."""
    right, wrong = tpfp_default(found, boxes, ignored, threshold, use_legacy_coordinate=True)
    return (right[0] - wrong[0]).astype(np.int8)
