"""mmdet's CocoMetric with a choice of evaluator, unrounded figures and a table of classes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.fileio import load
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable
from hybrid_dense.evaluation.coco import BACKENDS, IOU_TYPES, check_choice, evaluate_coco


@METRICS.register_module()
class DetailedCocoMetric(CocoMetric):
    """COCO AP and AR of boxes and masks: the twelve figures of https://cocodataset.org/#detection-eval, unrounded.

    Beside mmdet's CocoMetric: the evaluator is a choice; each of "bbox", "segm" and "boundary" has its table of classes
    (with ``classwise`` the host lets masks overwrite boxes); a model that finds nothing has AP 0 (the host returns no
    figures, and a checkpoint hook that looks for the best stops); an annotation id of 0 is an object like any other.
    Proposal recall stays with the host's metric.

    Args:
        ann_file: COCO annotations; None takes the truth from the samples' ``instances``.
        metric: one or several of "bbox", "segm" and "boundary" (Boundary AP of instance masks).
        backend: "faster-coco-eval" or "pycocotools"; the figures are the same to 1e-12.
        proposal_nums: for three figures of recall, the detections of an image that count, ascending; the last holds for
            AP.
        options: the other arguments of CocoMetric (outfile_prefix, format_only, …).
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        backend: str = BACKENDS[0],
        proposal_nums: Sequence[int] = (1, 10, 100),
        **options,
    ) -> None:
        for name in ("classwise", "iou_thrs", "metric_items", "use_mp_eval"):
            if options.get(name):
                raise ValueError(f"DetailedCocoMetric has no {name}: it returns COCO's twelve figures for every class")
        check_choice("backend", backend, BACKENDS)
        metrics = [metric] if isinstance(metric, str) else list(metric)
        for name in metrics:
            check_choice("metric", name, IOU_TYPES)
        super().__init__(ann_file, proposal_nums=proposal_nums, **options)
        self.metrics = metrics
        self.backend = backend
        self.class_tables: list[ClassTable] = []

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The figures of each entry of ``metric``, as "bbox_mAP" and so on."""
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / "results")
            files = self._write_results(results, prefix)
            if self.format_only:
                return {}
            return self._compare(files)

    def _write_results(self, results: list, prefix: str) -> dict[str, str]:
        truths, predictions = zip(*results, strict=True)
        if self._coco_api is None:
            self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        return self.results2json(predictions, prefix)

    def _compare(self, files: dict[str, str]) -> dict[str, float]:
        found: dict[str, float] = {}
        tables = []
        for metric in self.metrics:
            file = "bbox" if metric == "bbox" else "segm"
            if file not in files:
                raise ValueError(f"metric={metric!r} needs masks, and the model predicts none; take metric='bbox'")
            figures = evaluate_coco(
                self._coco_api.dataset, load(files[file]), metric, self.backend, self.proposal_nums, self.cat_ids
            )
            found.update({f"{metric}_{name}": value for name, value in figures.overall.items()})
            title = f"{self.prefix}/{metric}" if self.prefix else metric
            names = {category: self._coco_api.cats[category]["name"] for category in figures.classes}
            tables.append(ClassTable(title, {names[category]: row for category, row in figures.classes.items()}))
        self.class_tables = tables
        return found
