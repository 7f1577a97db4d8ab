"""mmdet's CocoMetric with a choice of evaluator, unrounded figures and a table of classes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable
from hybrid_dense.evaluation.coco import BACKENDS, IOU_TYPES, check_choice, evaluate_coco


@METRICS.register_module()
class DetailedCocoMetric(CocoMetric):
    """COCO AP and AR of boxes and masks: the twelve figures of https://cocodataset.org/#detection-eval, unrounded.

    Beside mmdet's CocoMetric: the evaluator is a choice; each of "bbox", "segm" and "boundary" has its table of classes
    (with ``classwise`` the host lets masks overwrite boxes); a model that finds nothing has AP 0 (the host returns no
    figures, and a checkpoint hook that looks for the best stops); an annotation id of 0 is an object like any other;
    detections go to the evaluator as they are, where the host writes them to a file and reads it again. Proposal recall
    stays with the host's metric.

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
        """The figures of each entry of ``metric``, as "bbox_mAP" and so on; files only where a prefix asks for them."""
        truths, predictions = zip(*results, strict=True)
        self._read_truth(truths)
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        return {} if self.format_only else self._compare(predictions)

    def _read_truth(self, truths: Sequence[dict]) -> None:
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                self._coco_api = COCO(self.gt_to_coco_json(truths, self.outfile_prefix or f"{folder}/truth"))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])

    def _compare(self, predictions: Sequence[dict]) -> dict[str, float]:
        found: dict[str, float] = {}
        tables = []
        for metric in self.metrics:
            if metric != "bbox" and "masks" not in predictions[0]:
                raise ValueError(f"metric={metric!r} needs masks, and the model predicts none; take metric='bbox'")
            detections = [entry for image in predictions for entry in self._list_detections(image, metric)]
            figures = evaluate_coco(
                self._coco_api.dataset, detections, metric, self.backend, self.proposal_nums, self.cat_ids
            )
            found.update({f"{metric}_{name}": value for name, value in figures.overall.items()})
            title = f"{self.prefix}/{metric}" if self.prefix else metric
            names = {category: self._coco_api.cats[category]["name"] for category in figures.classes}
            tables.append(ClassTable(title, {names[category]: row for category, row in figures.classes.items()}))
        self.class_tables = tables
        return found

    def _list_detections(self, image: dict, metric: str) -> Iterator[dict]:
        """An image's detections as COCO has them; some models score masks apart from boxes."""
        if metric == "bbox":
            boxes = image["bboxes"].astype(float)
            key, shapes = "bbox", np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
            scores = image["scores"]
        else:
            key, shapes = "segmentation", image["masks"]
            scores = image.get("mask_scores", image["scores"])
        for label, score, shape in zip(image["labels"], scores.tolist(), shapes, strict=True):
            yield {"image_id": image["img_id"], "category_id": self.cat_ids[label], "score": score, key: shape}
