"""Boundary IoU (Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021).

Mask IoU of a large region hardly sees its outline. Boundary IoU (equation 2 there) compares only the pixels of each
mask that are within d of its contour, d being 2 % of the image's diagonal. As in the authors' code, d counts king's
moves and the image's edge is part of a contour.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable

_LARGEST = np.int16(np.iinfo(np.int16).max)


def boundary_width(height: int, width: int, share: float = 0.02) -> int:
    """d in pixels: this share of the image's diagonal, at least 1."""
    return max(1, round(share * float(np.hypot(height, width))))


def boundary_pixels(labels: np.ndarray, distance: int, ignored: np.ndarray | None = None) -> np.ndarray:
    """Where a label map is within ``distance`` of a pixel of another label, or of the image's edge.

    A region of every label is thus reduced to its boundary at once. Ignored pixels are boundary of nothing: where a
    region meets them it might go on, so they draw no contour.

    Args:
        labels: (H, W), integers from 0 to 32766.
        distance: d in pixels.
        ignored: (H, W), bool; None means none.

    Returns:
        (H, W), bool.
    """
    ignored = np.zeros(labels.shape, bool) if ignored is None else ignored
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    labels = labels.astype(np.int16)  # before np.where, which would wrap -1 into uint8
    highest = cv2.dilate(np.where(ignored, np.int16(-1), labels), window)
    lowest = cv2.erode(np.where(ignored, _LARGEST, labels), window)
    found = (highest != labels) | (lowest != labels)
    found[:distance] = found[-distance:] = True
    found[:, :distance] = found[:, -distance:] = True
    return found & ~ignored


def boundary_iou(first: np.ndarray, second: np.ndarray, share: float = 0.02) -> float:
    """Boundary IoU of two binary masks (H, W) of one image; NaN if both are empty."""
    distance = boundary_width(*first.shape, share)
    first, second = (boundary_pixels(mask.astype(bool), distance) & mask.astype(bool) for mask in (first, second))
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else float("nan")


@METRICS.register_module()
class BoundaryIoUMetric(BaseMetric):
    """Boundary IoU of semantic maps: mBIoU in percent, the mean over classes; pixels are summed over the data set.

    It stands beside mmseg's IoUMetric in a list of evaluators, and needs no host. Instance masks have Boundary AP:
    ``DetailedCocoMetric(metric="boundary")``.

    Args:
        ignore_index: the label of pixels that do not count.
        share: d as a share of the image's diagonal (0.02 in the paper).
        collect_device, prefix: as in mmengine's BaseMetric.
    """

    def __init__(
        self, ignore_index: int = 255, share: float = 0.02, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not 0 < share < 1:
            raise ValueError(f"share={share}: d is a share of the image's diagonal, like 0.02")
        self.ignore_index = ignore_index
        self.share = share
        self.class_tables: list[ClassTable] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            predicted, labelled = (
                sample[key]["data"].squeeze(0).cpu().numpy() for key in ("pred_sem_seg", "gt_sem_seg")
            )
            self.results.append(self._count(predicted, labelled, len(self.dataset_meta["classes"])))

    def _count(self, predicted: np.ndarray, labelled: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of each class in the intersection and in the union of both boundaries, of one image."""
        ignored = labelled == self.ignore_index
        for name, labels in (("predicted", predicted), ("labelled", labelled[~ignored])):
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(
                    f"pixels are {name} {labels.min()} to {labels.max()}, but there are {classes} classes and "
                    f"ignore_index={self.ignore_index}; mend the label maps or reduce_zero_label"
                )
        distance = boundary_width(*labelled.shape, self.share)
        near_predicted = boundary_pixels(predicted, distance, ignored)
        near_labelled = boundary_pixels(labelled, distance, ignored)

        def count(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
            return np.bincount(labels[where].astype(np.int64), minlength=classes)

        both = count(labelled, near_predicted & near_labelled & (predicted == labelled))
        return both, count(predicted, near_predicted) + count(labelled, near_labelled) - both

    def compute_metrics(self, results: list) -> dict[str, float]:
        intersection, union = (sum(counts) for counts in zip(*results, strict=True))
        with np.errstate(invalid="ignore"):
            values = 100 * intersection / union
        names = self.dataset_meta["classes"]
        rows = {name: {"BIoU": float(value)} for name, value in zip(names, values, strict=True)}
        self.class_tables = [ClassTable(f"{self.prefix}/boundary" if self.prefix else "boundary", rows)]
        known = values[~np.isnan(values)]
        return {"mBIoU": float(known.mean()) if known.size else float("nan")}
