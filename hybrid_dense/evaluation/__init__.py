"""Metrics that the hosts lack, and the report of an evaluation. The hosts' own metrics are extended, not rewritten."""

import importlib

from hybrid_dense.evaluation.boundary import BoundaryIoUMetric
from hybrid_dense.evaluation.overlap import OverlappedTestLoop, OverlappedValLoop
from hybrid_dense.evaluation.panoptic import PanopticQualityMetric
from hybrid_dense.evaluation.report_hook import MetricsReportHook

__all__ = [
    "BoundaryIoUMetric",
    "MetricsReportHook",
    "OverlappedTestLoop",
    "OverlappedValLoop",
    "PanopticQualityMetric",
    "register_host_metrics",
]

_HOST_MODULES = {"mmdet": ("coco_mmdet", "voc_mmdet"), "mmseg": ("iou_mmseg", "sliding_mmseg")}


def register_host_metrics(host: str) -> None:
    """Register what extends ``host``, "mmdet" or "mmseg", which has to be importable."""
    for module in _HOST_MODULES[host]:
        importlib.import_module(f"{__name__}.{module}")
