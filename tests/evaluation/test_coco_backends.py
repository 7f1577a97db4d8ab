"""Both evaluators on the same detections, and on input that breaks them as they are."""

import contextlib
import copy
import gc
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hybrid_dense.evaluation.coco import BACKENDS, evaluate_coco

SIZE = 160  # objects of over 96² fit in
CATEGORIES = (7, 3, 90, 1)  # neither sorted nor dense


def rle(mask: np.ndarray) -> dict:
    """A mask (H, W) as COCO's compressed run lengths, as text, as it is in a file."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def ellipse(x: float, y: float, w: float, h: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1


def polygon(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y + h / 3, x + w / 2, y + h, x, y + h * 0.8]]


def random_data(seed: int, images: int = 40) -> tuple[dict, list[dict]]:
    """Objects of all sizes, a fifth crowds, polygons and run lengths; detections near them, doubled, tied and astray.

    Every fifth image has no objects, every seventh no detections. Two images have more than 100 detections of a class.
    """
    generator = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        for _ in range(0 if image % 5 == 0 else generator.integers(1, 8)):
            box = random_box(generator)
            crowd = int(generator.random() < 0.2)
            shape = rle(ellipse(*box)) if crowd or generator.random() < 0.5 else polygon(*box)
            area = float(coco_mask.area(shape) if crowd or isinstance(shape, dict) else box[2] * box[3] * 0.6)
            category = int(generator.choice(CATEGORIES))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=category,
                    bbox=box,
                    area=area,
                    segmentation=shape,
                    iscrowd=crowd,
                )
            )
            if image % 7:
                for _ in range(generator.integers(0, 4)):
                    moved = (np.array(box) + generator.normal(0, 0.04, 4) * max(box[2], 8)).tolist()
                    moved[2:] = np.maximum(moved[2:], 2).tolist()
                    right = category if generator.random() < 0.9 else int(generator.choice(CATEGORIES))
                    detections.append(detection(generator, image, right, moved))
        for _ in range(110 if image in (2, 3) else generator.integers(0, 4)):
            if image % 7:
                category = 7 if image in (2, 3) else int(generator.choice(CATEGORIES))
                detections.append(detection(generator, image, category, random_box(generator)))
    truth = dict(
        images=[dict(id=image, width=SIZE, height=SIZE, file_name=f"{image}.jpg") for image in range(images)],
        categories=[dict(id=category, name=f"class {category}") for category in CATEGORIES],
        annotations=annotations,
    )
    return truth, detections


def random_box(generator) -> list[float]:
    w, h = generator.choice([6, 20, 60, 130]) * generator.uniform(0.7, 1.15, 2)
    return [float(generator.uniform(0, SIZE - w)), float(generator.uniform(0, SIZE - h)), float(w), float(h)]


def detection(generator, image: int, category: int, box: list[float]) -> dict:
    # Ten different scores in all: most are tied.
    score = float(generator.integers(1, 11)) / 10
    return dict(image_id=image, category_id=category, bbox=box, score=score, segmentation=rle(ellipse(*box)))


def reference(truth: dict, detections: list[dict], iou_type: str) -> np.ndarray:
    """The twelve figures as pycocotools' own summary has them."""
    unused = "bbox" if iou_type == "segm" else "segmentation"
    detections = [{key: value for key, value in entry.items() if key != unused} for entry in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = copy.deepcopy(truth)
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes(detections), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_both_backends_give_the_twelve_figures_of_pycocotools(iou_type, seed):
    truth, detections = random_data(seed)
    before = copy.deepcopy((truth, detections))
    fast, slow = (evaluate_coco(truth, detections, iou_type, backend) for backend in BACKENDS)
    expected = reference(truth, detections, iou_type)
    assert len(fast.overall) == 12
    np.testing.assert_allclose(list(slow.overall.values()), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(list(fast.overall.values()), expected, rtol=0, atol=1e-12)
    assert list(fast.overall) == list(slow.overall)
    assert (expected > 0).all() and (expected < 1).all(), "data that could not tell a mistake"
    for category, row in slow.classes.items():
        np.testing.assert_allclose(
            list(fast.classes[category].values()), list(row.values()), rtol=0, atol=1e-12, equal_nan=True
        )
    assert (truth, detections) == before, "the input is left as it was"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_alone_has_the_figures_of_its_row(backend):
    """Rows belong to their class although the file's categories are not sorted."""
    truth, detections = random_data(5)
    rows = evaluate_coco(truth, detections, "bbox", backend).classes
    for category in CATEGORIES:
        alone = evaluate_coco(truth, detections, "bbox", backend, category_ids=[category])
        row = rows[category]
        assert row["objects"] == sum(
            ann["category_id"] == category and not ann["iscrowd"] for ann in truth["annotations"]
        )
        figures = [row[key] for key in ("AP", "AP_50", "AP_75", "AP_s", "AP_m", "AP_l", "AR")]
        expected = [alone.overall[key] for key in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@100")]
        np.testing.assert_allclose(np.nan_to_num(figures, nan=-1), expected, atol=1e-12)


def test_backends_agree_on_more_detections_than_a_hundred():
    """pycocotools' own summary knows no other number than 100."""
    truth, detections = random_data(6)
    fast, slow = (evaluate_coco(truth, detections, "bbox", backend, (10, 50, 200)) for backend in BACKENDS)
    np.testing.assert_allclose(list(fast.overall.values()), list(slow.overall.values()), atol=1e-12)
    assert "AR_s@200" in fast.overall and fast.overall["mAP"] > 0
    assert evaluate_coco(truth, detections, max_detections=(1, 2, 3)).overall["AR@3"] < fast.overall["AR@200"]


def one_object(**more) -> tuple[dict, list[dict]]:
    """Two images with an object each, found exactly; AP is 1."""
    box = [10.0, 20.0, 30.0, 40.0]
    truth = dict(
        images=[dict(id=image, width=SIZE, height=SIZE) for image in (1, 2)],
        categories=[dict(id=1, name="thing")],
        annotations=[{"id": image, "image_id": image, "category_id": 1, "bbox": box, **more} for image in (1, 2)],
    )
    return truth, [dict(image_id=image, category_id=1, bbox=box, score=0.9 - 0.1 * image) for image in (1, 2)]


@pytest.mark.parametrize("backend", BACKENDS)
class TestInputThatBreaksTheEvaluators:
    def test_neither_area_nor_iscrowd(self, backend):
        found = evaluate_coco(*one_object(), "bbox", backend).overall
        assert found["mAP"] == pytest.approx(1) and found["mAP_m"] == pytest.approx(1) and found["mAP_s"] == -1

    @pytest.mark.parametrize("ids", [(0, 1), (5, 5)], ids=["from zero", "repeated"])
    def test_annotation_ids_mean_nothing(self, backend, ids):
        truth, detections = one_object(area=1200.0, iscrowd=0)
        for annotation, number in zip(truth["annotations"], ids, strict=True):
            annotation["id"] = number
        assert evaluate_coco(truth, detections, "bbox", backend).overall["mAP"] == pytest.approx(1)

    @pytest.mark.parametrize("iou_type", ["bbox", "segm"])
    def test_no_detections_is_ap_zero(self, backend, iou_type):
        truth, _ = random_data(0)
        found = evaluate_coco(truth, [], iou_type, backend)
        assert set(found.overall.values()) == {0.0}
        assert {row["AP"] for row in found.classes.values()} == {0.0}

    def test_no_objects_is_no_value(self, backend):
        truth, detections = one_object()
        truth["annotations"] = []
        found = evaluate_coco(truth, detections, "bbox", backend)
        assert set(found.overall.values()) == {-1.0}
        assert np.isnan(found.classes[1]["AP"]) and found.classes[1]["objects"] == 0

    def test_it_prints_nothing(self, backend, capsys):
        evaluate_coco(*one_object(), "bbox", backend)
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(backend="cocoeval"), "backend='cocoeval'; choose one of faster-coco-eval, pycocotools"),
        (dict(iou_type="keypoints"), "iou_type='keypoints'"),
        (dict(iou_type="boundary", backend="pycocotools"), "has no iou_type 'boundary'"),
        (dict(max_detections=(100,)), "three numbers"),
        (dict(max_detections=(100, 10, 1)), "ascending"),
    ],
)
def test_wrong_options_are_one_line(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        evaluate_coco(*one_object(), **change)
    assert "\n" not in str(caught.value)


def test_a_detection_on_an_unknown_image_is_named():
    truth, detections = one_object()
    detections[0]["image_id"] = 77
    with pytest.raises(ValueError, match="image id 77"):
        evaluate_coco(truth, detections)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_may_come_as_bytes_and_their_size_is_that_of_the_mask(backend):
    """As mmdet holds them; a box beside the mask is not looked at."""
    truth, detections = random_data(4)
    expected = evaluate_coco(truth, detections, "segm", backend)
    for entry in detections:
        entry["segmentation"] = dict(entry["segmentation"], counts=entry["segmentation"]["counts"].encode())
        entry["bbox"] = [0.0, 0.0, 1.0, 1.0]
    assert evaluate_coco(truth, detections, "segm", backend).overall == expected.overall


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled, monkeypatch):
    seen = []
    monkeypatch.setattr("faster_coco_eval.COCOeval_faster.evaluate", lambda self: seen.append(gc.isenabled()) or 1 / 0)
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            evaluate_coco(*one_object())
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()


def test_boundary_ap_is_stricter_than_mask_ap():
    """An outline off by 5 pixels of 127: mask IoU 0.85, boundary IoU of d = 5 pixels near 0."""
    box, grown = [15.0, 15.0, 130.0, 130.0], [20.0, 20.0, 120.0, 120.0]
    truth, _ = one_object(segmentation=rle(ellipse(*box)), area=13000.0)
    detections = [dict(image_id=image, category_id=1, score=0.5, segmentation=rle(ellipse(*grown))) for image in (1, 2)]
    assert evaluate_coco(truth, detections, "segm").overall["mAP_75"] == pytest.approx(1)
    assert evaluate_coco(truth, detections, "boundary").overall["mAP_50"] == 0
