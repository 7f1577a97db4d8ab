"""DetailedCocoMetric beside mmdet's own metric, through mmengine's process and evaluate."""

import json
import tempfile

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS

from hybrid_dense.evaluation import register_host_metrics
from hybrid_dense.evaluation.coco import BACKENDS

SIZE = 120
CLASSES = ("cat", "dog", "bird")
CATEGORY_IDS = (9, 2, 5)  # the file lists them in this order: neither sorted nor dense


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_host_metrics("mmdet")


def disc(box) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    x1, y1, x2, y2 = box
    inside = ((columns - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((rows - (y1 + y2) / 2) / (y2 - y1)) ** 2
    return inside <= 0.25


@pytest.fixture(scope="module")
def images() -> list[dict]:
    """For each of ten images the true boxes with labels, and predictions near some of them; every cat is found."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(10):
        corners = generator.uniform(0, 60, (4, 2))
        boxes = np.hstack([corners, corners + generator.choice([12, 40, 58], (4, 1))]).astype(np.float32)
        labels = np.array([0, 1, 1, 2])
        shift = np.where(labels[:, None] == 0, 0, generator.normal(0, 4, (4, 4)))
        made.append(
            dict(id=number + 1, boxes=boxes, labels=labels, found=(boxes + shift).astype(np.float32).clip(0, SIZE))
        )
    return made


@pytest.fixture(scope="module")
def annotation_file(images, tmp_path_factory) -> str:
    content = dict(
        images=[dict(id=image["id"], width=SIZE, height=SIZE, file_name="") for image in images],
        categories=[dict(id=number, name=name) for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)],
        annotations=[],
    )
    for image in images:
        for (x1, y1, x2, y2), label in zip(image["boxes"].tolist(), image["labels"], strict=True):
            content["annotations"].append(
                dict(
                    id=len(content["annotations"]) + 1,
                    image_id=image["id"],
                    category_id=CATEGORY_IDS[label],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                    segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                )
            )
    path = tmp_path_factory.mktemp("coco") / "annotations.json"
    path.write_text(json.dumps(content))
    return str(path)


def sample(image: dict, masks: bool = True) -> dict:
    found = dict(
        bboxes=torch.from_numpy(image["found"]),
        labels=torch.from_numpy(image["labels"]),
        scores=torch.linspace(0.9, 0.5, len(image["labels"])),
    )
    if masks:
        found["masks"] = torch.from_numpy(np.stack([disc(box) for box in image["found"]]))
    return dict(img_id=image["id"], ori_shape=(SIZE, SIZE), pred_instances=found)


def evaluate(metric, images, **options) -> dict[str, float]:
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample(image, **options) for image in images])
    return metric.evaluate(len(images))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_figures_are_those_of_the_host_unrounded(images, annotation_file, backend):
    host = evaluate(CocoMetric(annotation_file, ["bbox", "segm"]), images)
    config = dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["bbox", "segm"], backend=backend)
    ours = evaluate(METRICS.build(config), images)
    assert {name: round(value, 3) for name, value in ours.items() if "mAP" in name} == pytest.approx(host)
    assert len(host) == 12 and len(ours) == 24
    assert next(iter(ours)) == "coco/bbox_mAP", "save_best='auto' takes the first figure"
    assert 0.1 < ours["coco/segm_mAP"] < ours["coco/bbox_mAP"] < 0.95


def test_boxes_and_masks_have_a_table_of_classes_each(images, annotation_file):
    metric = METRICS.build(
        dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["bbox", "segm", "boundary"])
    )
    found = evaluate(metric, images)
    assert [table.title for table in metric.class_tables] == ["coco/bbox", "coco/segm", "coco/boundary"]
    for table in metric.class_tables:
        assert set(table.rows) == set(CLASSES)
        mean = np.mean([row["AP"] for row in table.rows.values()])
        assert mean == pytest.approx(found[f"{table.title}_mAP"], abs=1e-12)
    boxes = metric.class_tables[0]
    assert boxes.ranked()[0] == "cat" and boxes.rows["cat"]["AP"] == pytest.approx(1)
    assert [boxes.rows[name]["objects"] for name in CLASSES] == [10, 20, 10]
    assert found["coco/boundary_mAP"] < found["coco/segm_mAP"]


def test_a_model_that_finds_nothing_has_ap_zero(images, annotation_file):
    nothing = [{**image, "found": image["found"][:0], "labels": image["labels"][:0]} for image in images]
    config = dict(type="DetailedCocoMetric", ann_file=annotation_file)
    assert evaluate(METRICS.build(config), nothing, masks=False)["coco/bbox_mAP"] == 0


def test_without_an_annotation_file_the_samples_bring_the_truth(images, annotation_file):
    metric = METRICS.build(dict(type="DetailedCocoMetric"))
    metric.dataset_meta = dict(classes=CLASSES)
    for image in images:
        truth = [
            dict(bbox=box.tolist(), bbox_label=int(label))
            for box, label in zip(image["boxes"], image["labels"], strict=True)
        ]
        metric.process({}, [dict(sample(image, masks=False), instances=truth)])
    expected = evaluate(METRICS.build(dict(type="DetailedCocoMetric", ann_file=annotation_file)), images, masks=False)
    assert metric.evaluate(len(images)) == pytest.approx(expected)


def test_repeated_evaluation_gives_the_same(images, annotation_file):
    metric = METRICS.build(dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["segm", "bbox"]))
    assert evaluate(metric, images) == evaluate(metric, images)


def test_format_only_writes_results_and_measures_nothing(images, annotation_file, tmp_path):
    config = dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["bbox", "segm"])
    metric = METRICS.build(dict(config, format_only=True, outfile_prefix=str(tmp_path / "sent")))
    assert evaluate(metric, images) == {}
    assert len(json.loads((tmp_path / "sent.bbox.json").read_text())) == 40
    assert "segmentation" in json.loads((tmp_path / "sent.segm.json").read_text())[0]


def test_files_are_written_where_one_asks_for_them_only(images, annotation_file, tmp_path, monkeypatch):
    """Asked for, they hold what the host writes, and the figures stay the same."""
    config = dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["bbox", "segm"])
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, **options: pytest.fail("a folder was made"))
    silent = evaluate(METRICS.build(config), images)
    monkeypatch.undo()
    written = evaluate(METRICS.build(dict(config, outfile_prefix=str(tmp_path / "ours"))), images)
    evaluate(CocoMetric(annotation_file, ["bbox", "segm"], outfile_prefix=str(tmp_path / "host")), images)
    assert silent == written
    for kind in ("bbox", "segm"):
        assert (tmp_path / f"ours.{kind}.json").read_bytes() == (tmp_path / f"host.{kind}.json").read_bytes()


def test_masks_may_have_scores_of_their_own(images, annotation_file):
    """Masks scored upside down are ranked otherwise, boxes are not."""
    config = dict(type="DetailedCocoMetric", ann_file=annotation_file, metric=["bbox", "segm"])
    plain = evaluate(METRICS.build(config), images)
    metric = METRICS.build(config)
    metric.dataset_meta = dict(classes=CLASSES)
    for image in images:
        entry = sample(image)
        entry["pred_instances"]["mask_scores"] = torch.linspace(0.1, 0.9, 4) * (1 + image["id"] / 100)
        metric.process({}, [entry])
    found = metric.evaluate(len(images))
    assert found["coco/bbox_mAP"] == plain["coco/bbox_mAP"] and found["coco/segm_mAP"] != plain["coco/segm_mAP"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(backend="cython"), "backend='cython'; choose one of faster-coco-eval, pycocotools"),
        (dict(metric="proposal"), "metric='proposal'; choose one of bbox, segm, boundary"),
        (dict(classwise=True), "has no classwise"),
    ],
)
def test_wrong_options_are_one_line(annotation_file, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        METRICS.build(dict(type="DetailedCocoMetric", ann_file=annotation_file, **options))
    assert "\n" not in str(caught.value).split("`: ")[-1]


def test_masks_asked_of_a_box_detector_are_one_line(images, annotation_file):
    metric = METRICS.build(dict(type="DetailedCocoMetric", ann_file=annotation_file, metric="segm"))
    with pytest.raises(ValueError, match="the model predicts none; take metric='bbox'"):
        evaluate(metric, images, masks=False)
