"""COCO's detection figures from either evaluator: faster-coco-eval (C++) or pycocotools, the reference.

Both fill the same arrays of precision and recall. The twelve figures and those of each class are means over these,
taken here once for both. What the evaluators ask of their input, and change in it, is arranged on copies: annotations
are numbered from 1 (an id of 0 counts as "unmatched", a repeated one hides an object), a missing ``iscrowd`` is 0, a
missing ``area`` that of the box, and no detections at all are a result like any other. The index of the detections is
built here too: ``loadRes`` of both also makes an outline of every box and a box around every mask, which none needs.

The figures: https://cocodataset.org/#detection-eval. Boundary AP takes the smaller of a mask's IoU and its boundary's
(Cheng et al., Boundary IoU, CVPR 2021, section 5); only faster-coco-eval has it.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from hybrid_dense.garbage import collector_at_rest

BACKENDS = ("faster-coco-eval", "pycocotools")
IOU_TYPES = ("bbox", "segm", "boundary")
_AREAS = ("", "_s", "_m", "_l")  # all, under 32², under 96², above, in pixels: the evaluators' own order
_AT_50, _AT_75 = 0, 5  # among the IoU thresholds 0.50, 0.55, … 0.95


@dataclass(frozen=True)
class CocoFigures:
    """What an evaluation found: values in 0…1.

    Args:
        overall: the twelve figures by name (mAP, mAP_50, mAP_75, mAP_s, mAP_m, mAP_l, then average recall AR); -1 where
            the ground truth has no such object, as both evaluators have it.
        classes: category id → AP, AP_50, AP_75, AP_s, AP_m, AP_l, AR and the number of objects; NaN instead of -1.
    """

    overall: dict[str, float]
    classes: dict[int, dict[str, float]]


def evaluate_coco(
    truth: Mapping,
    detections: Sequence[Mapping],
    iou_type: str = "bbox",
    backend: str = BACKENDS[0],
    max_detections: Sequence[int] = (1, 10, 100),
    category_ids: Sequence[int] | None = None,
) -> CocoFigures:
    """Evaluate detections on all images of the ground truth.

    Args:
        truth: a COCO annotation file's content: images, categories, annotations.
        detections: COCO results: image_id, category_id, score, and bbox (x, y, w, h) or segmentation (RLE). The size of
            a detection is that of its mask where it has one and ``iou_type`` compares masks.
        iou_type: "bbox", "segm" or "boundary".
        backend: "faster-coco-eval" or "pycocotools".
        max_detections: for three figures of recall, the detections of an image and class that count, ascending; the
            last holds for everything else.
        category_ids: the categories that count; None means all.

    Raises:
        ValueError: an unknown evaluator or iou_type, or a detection on an image that the ground truth does not have.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("iou_type", iou_type, IOU_TYPES)
    if iou_type == "boundary" and backend == "pycocotools":
        raise ValueError("pycocotools has no iou_type 'boundary'; take backend='faster-coco-eval'")
    if len(max_detections) != 3 or sorted(max_detections) != list(max_detections):
        raise ValueError(f"max_detections={tuple(max_detections)}: give three numbers in ascending order")
    known = {image["id"] for image in truth["images"]}
    strangers = {detection["image_id"] for detection in detections} - known
    if strangers:
        raise ValueError(f"detections on image id {min(strangers)}, which the ground truth does not have")
    with contextlib.redirect_stdout(io.StringIO()), collector_at_rest():
        truth = _copy_truth(truth)
        results = {**truth, "annotations": _copy_detections(detections, iou_type)}
        evaluation = _begin(truth, results, iou_type, backend)
        evaluation.params.maxDets = list(max_detections)
        if category_ids is not None:
            evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    # Each evaluator sorts its categories, whatever the order of the file.
    categories = [int(category) for category in evaluation.params.catIds]
    objects = Counter(ann["category_id"] for ann in truth["annotations"] if not ann["iscrowd"])
    return CocoFigures(
        overall=_twelve_figures(precision, recall, max_detections),
        classes={
            category: {**_class_figures(precision[:, :, index], recall[:, index]), "objects": objects[category]}
            for index, category in enumerate(categories)
        },
    )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}; choose one of {', '.join(choices)}")


def _copy_truth(truth: Mapping) -> dict:
    annotations = []
    for number, annotation in enumerate(truth.get("annotations", ()), 1):
        copy = {"iscrowd": 0, **annotation, "id": number}
        if "area" not in copy:
            copy["area"] = copy["bbox"][2] * copy["bbox"][3]
        annotations.append(copy)
    images, categories = ([dict(entry) for entry in truth[key]] for key in ("images", "categories"))
    return dict(images=images, categories=categories, annotations=annotations)


def _copy_detections(detections: Sequence[Mapping], iou_type: str) -> list[dict]:
    """What both evaluators read of detections, with their areas: of the boxes, or of the masks where these count."""
    if iou_type == "bbox":
        shape, areas = "bbox", [detection["bbox"][2] * detection["bbox"][3] for detection in detections]
    else:
        shape = "segmentation"
        areas = coco_mask.area([detection[shape] for detection in detections]).tolist() if detections else []
    keys = ("image_id", "category_id", "score", shape)
    return [
        {**{key: detection[key] for key in keys}, "id": number, "area": area, "iscrowd": 0}
        for number, (detection, area) in enumerate(zip(detections, areas, strict=True), 1)
    ]


def _begin(truth: dict, results: dict, iou_type: str, backend: str):
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    indices = []
    for dataset in (truth, results):
        index = COCO()
        index.dataset = dataset
        index.createIndex()
        indices.append(index)
    return COCOeval(*indices, iou_type)


def _twelve_figures(precision: np.ndarray, recall: np.ndarray, max_detections: Sequence[int]) -> dict[str, float]:
    """From precision (10 IoU thresholds, 101 recalls, classes, 4 areas, 3 counts) and recall (without the 101)."""
    last = max_detections[-1]
    return {
        "mAP": _mean(precision[:, :, :, 0, -1]),
        "mAP_50": _mean(precision[_AT_50, :, :, 0, -1]),
        "mAP_75": _mean(precision[_AT_75, :, :, 0, -1]),
        **{f"mAP{_AREAS[area]}": _mean(precision[:, :, :, area, -1]) for area in (1, 2, 3)},
        **{f"AR@{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(max_detections)},
        **{f"AR{_AREAS[area]}@{last}": _mean(recall[:, :, area, -1]) for area in (1, 2, 3)},
    }


def _class_figures(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    figures = {
        "AP": _mean(precision[:, :, 0, -1]),
        "AP_50": _mean(precision[_AT_50, :, 0, -1]),
        "AP_75": _mean(precision[_AT_75, :, 0, -1]),
        **{f"AP{_AREAS[area]}": _mean(precision[:, :, area, -1]) for area in (1, 2, 3)},
        "AR": _mean(recall[:, 0, -1]),
    }
    return {name: float("nan") if value == -1 else value for name, value in figures.items()}


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
