"""Metrics that the hosts lack, and the report of an evaluation. The hosts' own metrics are extended, not rewritten."""

import importlib

from hybrid_dense.evaluation.boundary import BoundaryIoUMetric
from hybrid_dense.evaluation.panoptic import PanopticQualityMetric
from hybrid_dense.evaluation.report_hook import MetricsReportHook

__all__ = ["BoundaryIoUMetric", "MetricsReportHook", "PanopticQualityMetric", "register_host_metrics"]

_HOST_METRICS = {"mmdet": ("coco_mmdet", "voc_mmdet"), "mmseg": ("iou_mmseg",)}


def register_host_metrics(host: str) -> None:
    """Register the metrics that extend those of ``host``, "mmdet" or "mmseg", which has to be importable."""
    for module in _HOST_METRICS[host]:
        importlib.import_module(f"{__name__}.{module}")
