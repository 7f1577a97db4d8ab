"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4), without panopticapi."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation.classes import ClassTable

# As mmdet packs a panoptic map: instance · 1000 + class; classes from the number of classes on mean nothing.
INSTANCE_OFFSET = 1000
VOID = 0
"""The id of unlabelled pixels in a COCO panoptic PNG."""


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map: its id in the map, its class, and whether it is a crowd region."""

    id: int
    label: int
    crowd: bool = False


@dataclass
class Tally:
    """Counts of one class: summed IoU of the matches, true positives, false positives, false negatives."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, other: Tally) -> None:
        self.iou, self.tp = self.iou + other.iou, self.tp + other.tp
        self.fp, self.fn = self.fp + other.fp, self.fn + other.fn

    def figures(self) -> dict[str, float]:
        """PQ = SQ · RQ in per cent, as panopticapi has them; NaN where neither truth nor prediction has the class."""
        weight = self.tp + 0.5 * self.fp + 0.5 * self.fn
        if weight == 0:
            return dict(PQ=np.nan, SQ=np.nan, RQ=np.nan)
        quality = self.iou / max(self.tp, 1)
        return dict(PQ=100 * self.iou / weight, SQ=100 * quality, RQ=100 * self.tp / weight)


@dataclass
class Tallies:
    """Tallies by class."""

    by_class: dict[int, Tally] = field(default_factory=dict)

    def __getitem__(self, label: int) -> Tally:
        return self.by_class.setdefault(label, Tally())

    def add(self, other: Tallies) -> None:
        for label, tally in other.by_class.items():
            self[label].add(tally)


def compare_maps(
    truth: np.ndarray, segments: Sequence[Segment], prediction: np.ndarray, found: Sequence[Segment]
) -> Tallies:
    """Match the segments of two maps (H, W) of ids.

    A pair of one class matches where its IoU exceeds one half; pixels without truth count for no union. A prediction
    without a match is ignored where more than half of it lies on pixels without truth or on a crowd of its class.
    """
    # One number for each pair of ids: sorting pairs is a hundred times slower.
    base = int(prediction.max(initial=0)) + 1
    pairs, counts = np.unique(truth.astype(np.int64) * base + prediction, return_counts=True)
    shared = {divmod(pair, base): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}
    truth_area, found_area = areas(truth), areas(prediction)
    tallies, matched_truth, matched_found = Tallies(), set(), set()
    predicted = {segment.id: segment for segment in found}
    for segment in segments:
        for other_id in predicted if not segment.crowd else ():
            overlap = shared.get((segment.id, other_id), 0)
            if not overlap or predicted[other_id].label != segment.label:
                continue
            union = truth_area[segment.id] + found_area[other_id] - overlap - shared.get((VOID, other_id), 0)
            if overlap / union > 0.5:
                tallies[segment.label].add(Tally(iou=overlap / union, tp=1))
                matched_truth.add(segment.id)
                matched_found.add(other_id)
    for segment in segments:
        if not segment.crowd and segment.id not in matched_truth:
            tallies[segment.label].fn += 1
    for segment in found:
        if segment.id not in matched_found and segment.id in found_area:
            crowds = [crowd.id for crowd in segments if crowd.crowd and crowd.label == segment.label]
            excused = sum(shared.get((ground, segment.id), 0) for ground in (VOID, *crowds))
            if excused <= 0.5 * found_area[segment.id]:
                tallies[segment.label].fp += 1
    return tallies


def areas(ids: np.ndarray) -> dict[int, int]:
    """Pixels of each id."""
    return dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))


@METRICS.register_module()
class PanopticQualityMetric(BaseMetric):
    """PQ, SQ and RQ in per cent: over all classes, things (``_th``) and stuff (``_st``), and of every class.

    Args:
        ann_file: COCO's panoptic JSON.
        seg_prefix: the folder of its PNGs.
        prefix: what the figures' names begin with.

    Raises:
        FileNotFoundError: a missing annotation or PNG.
        ValueError: a class of the data set that the annotation does not know.
    """

    default_prefix = "panoptic"

    def __init__(self, ann_file: str, seg_prefix: str, prefix: str | None = None, collect_device: str = "cpu"):
        super().__init__(collect_device, prefix)
        self.ann_file, self.folder = Path(ann_file), Path(seg_prefix)
        self.class_tables: list[ClassTable] = []
        self._truth: dict | None = None

    @property
    def truth(self) -> dict:
        """The annotation, read when it is first needed: PNG name and segments by image, class by category."""
        if self._truth is None:
            if not self.ann_file.is_file():
                raise FileNotFoundError(f"no panoptic annotation {self.ann_file}")
            content = json.loads(self.ann_file.read_text())
            names = {category["id"]: category["name"] for category in content["categories"]}
            unknown = set(self.dataset_meta["classes"]) - set(names.values())
            if unknown:
                raise ValueError(f"{self.ann_file} does not know the classes {', '.join(sorted(unknown))}")
            order = {name: label for label, name in enumerate(self.dataset_meta["classes"])}
            labels = {category: order[name] for category, name in names.items() if name in order}
            things = {labels[c["id"]] for c in content["categories"] if c["isthing"] and c["id"] in labels}
            images = {annotation["image_id"]: annotation for annotation in content["annotations"]}
            self._truth = dict(images=images, labels=labels, things=things)
        return self._truth

    def process(self, data_batch: dict, data_samples: Sequence[Mapping]) -> None:
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            annotation = self.truth["images"].get(sample["img_id"])
            if annotation is None:
                raise ValueError(f"{self.ann_file} has no annotation of image {sample['img_id']}")
            prediction = np.asarray(sample["pred_panoptic_seg"]["sem_seg"].cpu()).squeeze(0).astype(np.int64)
            found = [Segment(i, i % INSTANCE_OFFSET) for i in areas(prediction) if i % INSTANCE_OFFSET < classes]
            truth = read_ids(self.folder / annotation["file_name"])
            tallies = compare_maps(truth, list(self.segments(annotation)), prediction, found)
            self.results.append({label: vars(tally) for label, tally in tallies.by_class.items()})

    def segments(self, annotation: dict) -> Iterator[Segment]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] in self.truth["labels"]:
                label = self.truth["labels"][segment["category_id"]]
                yield Segment(segment["id"], label, bool(segment.get("iscrowd", 0)))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        total = Tallies()
        for result in results:
            total.add(Tallies({label: Tally(**counts) for label, counts in result.items()}))
        classes = self.dataset_meta["classes"]
        rows = {name: total[label].figures() for label, name in enumerate(classes)}
        self.class_tables = [ClassTable("panoptic", rows)]
        things = {classes[label] for label in self.truth["things"]}
        groups = {"": set(classes), "_th": things, "_st": set(classes) - things}
        return {
            f"{measure}{suffix}": mean([rows[name][measure] for name in classes if name in group])
            for suffix, group in groups.items()
            for measure in ("PQ", "SQ", "RQ")
        }


def mean(values: Sequence[float]) -> float:
    """The mean of those that are there; NaN of none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def read_ids(path: Path) -> np.ndarray:
    """A COCO panoptic PNG as ids (H, W): R + 256 · G + 256² · B."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"no panoptic map {path}, or not an image")
    blue, green, red = (image[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 256**2 * blue
