"""mmdet's VOCMetric with sizes and a table of classes."""

from __future__ import annotations

from multiprocessing.pool import ThreadPool

import numpy as np
from mmdet.evaluation import VOCMetric, eval_map
from mmdet.evaluation.functional import mean_ap
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable

# The host forks four processes for every threshold, and a fork of a process in which torch's threads run may hang.
mean_ap.Pool = ThreadPool

# COCO's small, medium and large: edges of the square roots of areas.
_SIZES = {"_s": (0, 32), "_m": (32, 96), "_l": (96, 1e5)}


@METRICS.register_module()
class DetailedVOCMetric(VOCMetric):
    """PASCAL VOC's mAP, "11points" (VOC 2007) or "area" (VOC 2010 on), with sizes and classes.

    The figures are mmdet's, which counts boxes as VOC's own kit does (width x2 - x1 + 1, objects marked difficult count
    for nothing). It returns mAP (the mean over ``iou_thrs``), AP50 and so on for each threshold, and AP50_s, AP50_m,
    AP50_l for objects of under 32², under 96² and more pixels: -1 if there are none. Values in 0…1, unrounded. The
    arguments are those of VOCMetric but ``scale_ranges`` and ``metric``.
    """

    def __init__(self, **options) -> None:
        if options.get("scale_ranges"):
            raise ValueError("DetailedVOCMetric has no scale_ranges: it always gives small, medium and large")
        super().__init__(**options)
        if self.metric != "mAP":
            raise ValueError(f"DetailedVOCMetric has no metric={self.metric!r}: it measures mAP")
        self.class_tables: list[ClassTable] = []

    def compute_metrics(self, results: list) -> dict[str, float]:
        truths, predictions = zip(*results, strict=True)
        names = self.dataset_meta["classes"]
        columns: dict[str, np.ndarray] = {}
        keys = [f"AP{round(100 * threshold):02d}" for threshold in self.iou_thrs]
        for key, threshold in zip(keys, self.iou_thrs, strict=True):
            entries = self._evaluate(predictions, truths, threshold, None)
            columns[key] = _precisions(entries)[:, 0]
            sizes = _precisions(self._evaluate(predictions, truths, threshold, list(_SIZES.values())))
            columns.update({f"{key}{suffix}": sizes[:, index] for index, suffix in enumerate(_SIZES)})
        counts = [dict(objects=int(entry["num_gts"]), detections=int(entry["num_dets"])) for entry in entries]
        rows = {
            name: {**{measure: float(values[index]) for measure, values in columns.items()}, **counts[index]}
            for index, name in enumerate(names)
        }
        self.class_tables = [ClassTable(self.prefix or "voc", rows)]
        found = {measure: _mean(values) for measure, values in columns.items()}
        return {"mAP": sum(found[key] for key in keys) / len(keys), **found}

    def _evaluate(self, predictions: tuple, truths: tuple, threshold: float, ranges: list | None) -> list[dict]:
        """What the host counts for each class."""
        return eval_map(
            predictions,
            truths,
            scale_ranges=ranges,
            iou_thr=threshold,
            dataset=self.dataset_meta["classes"],
            logger="silent",
            use_legacy_coordinate=True,
            eval_mode=self.eval_mode,
        )[1]


def _precisions(entries: list[dict]) -> np.ndarray:
    """AP of (classes, sizes); NaN where there are no objects."""
    values = np.array([np.atleast_1d(entry["ap"]) for entry in entries], float)
    values[np.array([np.atleast_1d(entry["num_gts"]) for entry in entries]) == 0] = np.nan
    return values


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else -1.0
