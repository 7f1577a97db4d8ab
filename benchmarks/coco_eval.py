#!/usr/bin/env python
"""COCO evaluation by hybrid_dense and by pycocotools: seconds, their ratio, and the largest difference.

  python benchmarks/coco_eval.py                   # 5,000 images of 36 detections, boxes and masks
  python benchmarks/coco_eval.py --images 200      # a quick look

Detections lie around drawn objects of 80 classes on images of 640×480; masks are ellipses. Both get the same read
annotations and results, and go from there to the twelve figures: pycocotools by its own calls (createIndex, loadRes,
evaluate, accumulate, summarize). Each runs --repeat times and the fastest counts; they take turns, so that a busy
machine slows both down. The difference is the largest of the twelve figures and of the AP of each class.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import time

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hybrid_dense.evaluation.coco import evaluate_coco

WIDTH, HEIGHT, CLASSES = 640, 480, 80
OBJECTS = 7  # an image of COCO val2017 has 7.3 in the mean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=36, help="of each image")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"drawing {args.images} images", file=sys.stderr, flush=True)
    truth, detections = draw(args.images, args.detections, args.seed)
    print(f"{args.images} images, {len(truth['annotations'])} objects, {len(detections)} detections, {CLASSES} classes")
    print("| | hybrid_dense s | pycocotools s | ratio | largest difference | mAP |")
    print("|---|---|---|---|---|---|")
    for title, iou_type, unused in (("boxes", "bbox", "segmentation"), ("masks", "segm", "bbox")):
        results = [{key: value for key, value in entry.items() if key != unused} for entry in detections]
        seconds, (ours, reference) = measure(truth, results, iou_type, args.repeat)
        times = " | ".join(f"{value:.2f}" for value in seconds)
        difference = np.abs(ours - reference).max()
        print(f"| {title} | {times} | {seconds[1] / seconds[0]:.1f} | {difference:.1e} | {ours[0]:.3f} |", flush=True)
    return 0


def measure(truth: dict, results: list[dict], iou_type: str, repeat: int) -> tuple[list[float], list[np.ndarray]]:
    """The fewest seconds and the figures of both, ours first."""
    seconds, figures = [float("inf")] * 2, [np.empty(0)] * 2
    for _ in range(repeat):
        for index, evaluate in enumerate((evaluate_ours, evaluate_pycocotools)):
            given = copy.deepcopy((truth, results))  # pycocotools writes into its input
            start = time.perf_counter()
            figures[index] = evaluate(*given, iou_type)
            seconds[index] = min(time.perf_counter() - start, seconds[index])
    return seconds, figures


def evaluate_ours(truth: dict, results: list[dict], iou_type: str) -> np.ndarray:
    """The twelve figures, then the AP of each class; -1 where there is none."""
    figures = evaluate_coco(truth, results, iou_type)
    classes = [figures.classes[category]["AP"] for category in sorted(figures.classes)]
    return np.array([*figures.overall.values(), *np.nan_to_num(classes, nan=-1)])


def evaluate_pycocotools(truth: dict, results: list[dict], iou_type: str) -> np.ndarray:
    """The same from pycocotools' own calls."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    classes = evaluation.eval["precision"][:, :, :, 0, -1].transpose(2, 0, 1)
    return np.array([*evaluation.stats, *(part[part > -1].mean() if (part > -1).any() else -1 for part in classes)])


def draw(images: int, count: int, seed: int) -> tuple[dict, list[dict]]:
    """Ground truth and detections, both with boxes and masks; two of three detections lie near an object."""
    generator = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        boxes = random_boxes(generator, generator.poisson(OBJECTS))
        labels = generator.integers(1, CLASSES + 1, len(boxes))
        for box, label in zip(boxes, labels, strict=True):
            entry = dict(id=len(annotations) + 1, image_id=image, category_id=int(label), bbox=box.tolist())
            mask = ellipse(box)
            crowd = int(generator.random() < 0.01)
            annotations.append(dict(entry, segmentation=mask, area=float(coco_mask.area(mask)), iscrowd=crowd))
        near = generator.integers(0, len(boxes), count * 2 // 3) if len(boxes) else np.zeros(0, int)
        spread = 0.08 * np.tile(boxes[near, 2:], 2)
        found = np.vstack([boxes[near] + generator.normal(0, 1, spread.shape) * spread, random_boxes(generator, count)])
        found[:, 2:] = np.maximum(found[:, 2:], 2)
        classes = np.concatenate([labels[near], generator.integers(1, CLASSES + 1, count)])
        for box, label in zip(found[:count], classes[:count], strict=True):
            score = round(float(generator.random()), 3)
            entry = dict(image_id=image, category_id=int(label), bbox=box.tolist(), score=score)
            detections.append(dict(entry, segmentation=ellipse(box)))
    truth = dict(
        images=[dict(id=image, width=WIDTH, height=HEIGHT) for image in range(1, images + 1)],
        categories=[dict(id=number, name=f"class {number}") for number in range(1, CLASSES + 1)],
        annotations=annotations,
    )
    return truth, detections


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4): x, y, w, h inside the image; sides from 8 to 300 pixels, as many small as large ones."""
    sides = np.exp(generator.uniform(np.log(8), np.log(300), (count, 2)))
    return np.hstack([generator.random((count, 2)) * ((WIDTH, HEIGHT) - sides), sides])


def ellipse(box: np.ndarray) -> dict:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, ((x + w / 2, y + h / 2), (w, h), 0.0), 1, -1)
    return coco_mask.encode(np.asfortranarray(mask))


if __name__ == "__main__":
    sys.exit(main())
