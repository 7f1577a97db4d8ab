"""Every check of boxes, ids and classes; annotation files that are no such thing; what `train` refuses."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken_folder import write_broken, write_config
from mmengine.config import Config

import hybrid_dense
from hybrid_dense.data.check import check_data, check_num_classes
from hybrid_dense.data.checks.examine import examine
from hybrid_dense.data.checks.read_coco import read_coco
from hybrid_dense.data.checks.read_config import needs_masks, read_config
from hybrid_dense.data.checks.read_folder import read_folder
from hybrid_dense.data.checks.read_voc import read_voc

NAN = float("nan")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    return path


def coco(image: Path, *annotations: dict, categories=("cat", "dog")) -> dict:
    usual = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    second = {"id": 99, **usual, "category_id": 2, "bbox": [20, 2, 9, 9]}
    boxes = [{"id": number, **usual, **annotation} for number, annotation in enumerate(annotations, start=1)]
    return {
        "images": [{"id": 1, "file_name": image.name, "width": 48, "height": 32}],
        "annotations": [{"id": 98, **usual, "bbox": [35, 2, 9, 9]}, second, *boxes],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
    }


def found(tmp_path: Path, image: Path, content, classes=(), **options) -> list:
    file = tmp_path / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(examine([read_coco("train", file, image.parent, classes, **options)]).findings)


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        ({}, []),
        ({"bbox": [0, 0, 48, 32]}, []),
        ({"bbox": [-0.5, 0, 49, 32.5]}, []),  # half a pixel beyond: rounding
        ({"bbox": [1, 1, NAN, 9]}, ["box-not-finite"]),
        ({"bbox": [1, 1, float("inf"), 9]}, ["box-not-finite"]),
        ({"bbox": [1, 1, 0, 9]}, ["box-empty"]),
        ({"bbox": [9, 9, -5, 4]}, ["box-empty"]),
        ({"bbox": [1, 1, 0.5, 9]}, ["box-tiny"]),
        ({"area": 0}, ["box-tiny"]),
        ({"bbox": [60, 1, 9, 9]}, ["box-outside"]),
        ({"bbox": [40, 1, 20, 9]}, ["box-over-edge"]),
        ({"bbox": [1, 2, 3]}, ["box-missing"]),
        ({"bbox": [1, 2, "3", 4]}, ["box-missing"]),
        ({"bbox": [20, 2, 9, 9], "category_id": 2}, ["box-double"]),
        ({"segmentation": [[1, 1, 5, 5]]}, ["polygon-broken"]),
        ({"segmentation": [[1, 1, 5, 5], [1, 1, 5, 5, 1, 5]]}, []),
        ({"segmentation": {"size": [48, 32], "counts": "x"}}, ["mask-size"]),
        ({"segmentation": {"size": [32, 48], "counts": "x"}}, []),
        ({"category_id": 7}, ["nameless-category"]),
        ({"image_id": 5}, ["orphan"]),
        ({"id": 99}, ["double-annotation-id"]),
    ],
)
def test_an_annotation_is_judged_by_its_numbers(tmp_path, image, annotation, kinds):
    assert [finding.kind for finding in found(tmp_path, image, coco(image, annotation))] == kinds


def test_a_finding_names_file_box_and_numbers_and_fits_strict_json(tmp_path, image):
    (finding,) = found(tmp_path, image, coco(image, {"bbox": [1, 2, NAN, 4]}))
    assert (finding.file, finding.box_id, finding.severity) == (str(image), "1", "error")
    assert finding.message == "cat 1 has a box of x 1…nan, y 2…6"
    assert json.loads(json.dumps(finding.to_json(), allow_nan=False))["box"] == [1.0, 2.0, None, 6.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "no list of images, annotations, categories"),
        ('{"images": {}, "annotations": []}', "no list of images, categories"),
        ('{"images": [], "categories": []}', "no list of annotations"),
    ],
)
def test_a_file_that_is_no_coco_file_says_so(tmp_path, image, content, message):
    (finding,) = found(tmp_path, image, content)
    assert finding.kind == "annotation-unreadable"
    assert message in finding.message


def test_bytes_that_are_no_text_and_missing_files_say_so(tmp_path, image):
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff"}')
    for name, said in (("a.json", "not in UTF-8"), ("b.json", "No such file")):
        (finding,) = examine([read_coco("train", tmp_path / name, tmp_path)]).findings
        assert said in finding.message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "lacks one of id, file_name, width, height"),
        ({"images": [3]}, "image 3 lacks"),
        ({"annotations": ["x"]}, "has no image_id"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]}, "has no area"),
        ({"categories": [{"id": 1}]}, "has no id or no name"),
    ],
)
def test_parts_that_no_loader_can_read_are_named(tmp_path, image, parts, message):
    findings = found(tmp_path, image, coco(image) | parts)
    assert any(message in finding.message for finding in findings if finding.kind == "annotation-unreadable")


@pytest.mark.parametrize(
    ("step", "needed"),
    [
        (dict(type="LoadAnnotations", with_bbox=True), False),
        (dict(type="LoadAnnotations", with_mask=True), True),
        (dict(type="LoadLateMasks"), True),
        (dict(type="LoadLateMasks", with_mask=False), False),
    ],
    ids=str,
)
def test_masks_are_needed_where_they_are_loaded(step, needed):
    assert needs_masks(dict(pipeline=[dict(type="LoadImageFromFile"), step])) is needed


def test_a_mask_head_needs_a_mask_for_each_object(tmp_path, image):
    findings = found(tmp_path, image, coco(image), masks=True)
    assert [finding.message for finding in findings] == [
        "annotation 98 of image 1 has no segmentation",
        "annotation 99 of image 1 has no segmentation",
    ]


@pytest.mark.parametrize(
    ("classes", "kinds"),
    [
        (("cat", "dog"), []),
        (("cat",), ["class-unknown"]),
        (("dog", "cat"), ["class-order"]),
        (("cat", "dgo"), ["class-mismatch", "class-unknown", "class-unused"]),
        (("bird",), ["class-mismatch", "class-unknown", "class-unknown", "class-unused"]),
    ],
)
def test_classes_are_compared_with_the_config(tmp_path, image, classes, kinds):
    assert [finding.kind for finding in found(tmp_path, image, coco(image), classes)] == kinds


def test_the_loader_numbers_classes_by_the_file(tmp_path, image):
    """What class-order warns of: mmdet gives the first category of the file the first name of the config."""
    from mmdet.datasets import CocoDataset

    file = tmp_path / "a.json"
    file.write_text(json.dumps(coco(image, categories=("cat", "dog"))))
    dataset = CocoDataset(ann_file=str(file), data_prefix={"img": ""}, metainfo={"classes": ("dog", "cat")})
    labels = [instance["bbox_label"] for instance in dataset.get_data_info(0)["instances"]]
    assert labels == [0, 1]  # a cat is labelled 0, and 0 is named "dog"


def test_double_ids_and_categories(tmp_path, image):
    double = coco(image)
    double["images"] *= 2
    kinds = {finding.kind for finding in found(tmp_path, image, double)}
    assert kinds == {"double-image-id", "duplicate-image"}
    kinds = [finding.kind for finding in found(tmp_path, image, coco(image, categories=("cat", "dog", "cat")))]
    assert kinds == ["double-category"]


def write_voc(root: Path, image: Path, *objects: str) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages/ü 1.png").write_bytes(image.read_bytes())
    size = "<size><width>48</width><height>32</height></size>"
    (root / "Annotations/ü 1.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>", encoding="utf-8")
    return root


def voc_object(name: str, *edges) -> str:
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.mark.parametrize(
    ("objects", "kinds"),
    [
        ([voc_object("cat", 1, 1, 48, 32)], []),
        ([voc_object("cat", 5, 5, 5, 5)], ["box-empty"]),
        ([voc_object("cat", 5, 5, "nan", 9)], ["annotation-unreadable", "box-not-finite"]),
        ([voc_object("cat", 5, 5, "", 9)], ["annotation-unreadable", "box-missing"]),
        (["<object><name>cat</name></object>"], ["annotation-unreadable", "box-missing"]),
        (["<object>"], ["annotation-unreadable", "no-annotation"]),
    ],
)
def test_voc_folders_are_read_leniently(tmp_path, image, objects, kinds):
    (split,) = read_folder(write_voc(tmp_path / "voc", image, *objects))
    assert split.name == "all"
    assert [finding.kind for finding in examine([split]).findings] == kinds


def test_a_rare_voc_class_may_be_absent_but_not_misspelt_or_all(tmp_path, image):
    root = write_voc(tmp_path / "voc", image, voc_object("Cat", 1, 1, 9, 9), voc_object("dog", 1, 1, 9, 9))

    def kinds(*classes):
        split = read_voc("train", root, ["ü 1"], root / "JPEGImages", root / "Annotations", classes, (".png",))
        return [finding.kind for finding in examine([split]).findings]

    assert kinds("Cat", "dog", "bird") == ["class-unused"]
    assert kinds("dog") == ["class-unknown"]
    assert kinds("cat", "dog") == ["class-mismatch", "class-unknown", "class-unused"]
    assert "class-mismatch" in kinds("person")


def test_bccd_holds_two_boxes_without_size(data_root):
    report = examine(read_folder(data_root / "bccd"))
    assert {(Path(finding.file).name, finding.kind, finding.box) for finding in report.findings} == {
        ("BloodImage_00338.jpg", "box-empty", (503, 336, 503, 336)),
        ("BloodImage_00343.jpg", "box-empty", (180, 328, 180, 328)),
    }
    assert {survey.split: survey.images for survey in report.surveys} == {"train": 205, "val": 87}


def test_camvid_is_images_with_masks_and_sound(data_root):
    report = examine(read_folder(data_root / "camvid"), limit=10)
    assert report.findings == ()
    assert [survey.split for survey in report.surveys] == ["train", "val"]
    assert all(survey.annotated == 10 and survey.unit == "pixels" for survey in report.surveys)


def test_images_and_masks_in_folders_of_the_usual_names(tmp_path, image):
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / part).mkdir(parents=True)
        (tmp_path / "images" / part / f"{part}.png").write_bytes(image.read_bytes())
        cv2.imwrite(str(tmp_path / "masks" / part / f"{part}_mask.png"), np.zeros((32, 48), np.uint8))
    (tmp_path / "images/train/loop").symlink_to(tmp_path / "images", target_is_directory=True)
    cv2.imwrite(str(tmp_path / "masks/val/lonely.png"), np.zeros((32, 48), np.uint8))
    splits = read_folder(tmp_path)
    assert [(split.name, len(split.entries)) for split in splits] == [("train", 1), ("val", 1)]
    assert [finding.kind for finding in examine(splits).findings] == ["orphan", "leak"]


def test_a_folder_of_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match="holds no data set: looked for COCO"):
        read_folder(tmp_path)


# --- what train does ---


@pytest.fixture(scope="module", autouse=True)
def host():
    from mmdet.utils import register_all_modules

    hybrid_dense.register_all_modules()
    register_all_modules(init_default_scope=True)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    return write_broken(tmp_path_factory.mktemp("broken") / "data")


def test_each_mistake_of_the_broken_folder_is_found_by_the_quick_look(broken, tmp_path, caplog):
    cfg = Config.fromfile(write_config(tmp_path / "c.py", broken))
    with caplog.at_level(logging.WARNING):
        report = check_data(cfg, ("train",))
    named = {(finding.kind, Path(finding.file).name) for finding in report.findings}
    assert named == {
        ("truncated-image", "000001.jpg"),
        ("empty-file", "000002.jpg"),
        ("wrong-extension", "000003.jpg"),
        ("box-not-finite", "000004.jpg"),
        ("class-unknown", "instances_train.json"),
        ("duplicate-image", "000007.jpg"),
    }
    assert len(caplog.records) == len(report.findings)
    for finding in report.findings:
        assert finding.file in caplog.text


def test_a_set_that_is_validation_and_test_is_read_once(broken, tmp_path):
    cfg = Config.fromfile(write_config(tmp_path / "c.py", broken))
    assert [split.name for split in read_config(cfg)] == ["train", "val"]


def test_a_class_mismatch_names_both_sides_in_one_line(broken, tmp_path):
    classes = ("disk", "square", "triangel", "star", "ring", "cross")
    cfg = Config.fromfile(
        write_config(tmp_path / "c.py", broken, **{"train_dataloader.dataset.metainfo.classes": classes})
    )
    with pytest.raises(ValueError) as caught:
        check_data(cfg, ("train",))
    assert "\n" not in str(caught.value)
    assert "no 'triangel' (1 of 6 classes of the config)" in str(caught.value)
    assert "the config does not know 'triangle', 'hexagon'" in str(caught.value)
    assert "did you mean 'triangle'" in str(caught.value)


def test_semantic_masks_are_compared_with_the_config(scenes):
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    try:
        classes = ("background", "disk", "square", "triangle", "star", "ring", "cross")

        def dataset(*classes):
            prefix = dict(img_path="train/", seg_map_path="train_labels/")
            return dict(
                type="BaseSegDataset", data_root=str(scenes), data_prefix=prefix, metainfo=dict(classes=classes)
            )

        def kinds(*classes, **head):
            cfg = Config(dict(model=dict(decode_head=head), train_dataloader=dict(dataset=dataset(*classes))))
            return {finding.kind for finding in examine(read_config(cfg)).findings}

        assert kinds(*classes) == set()
        assert kinds(*classes[:-1]) == {"label-value"}  # some scene holds a cross
        assert kinds(*classes[:-1], ignore_index=6) == set()
        cfg = Config(dict(model={}, train_dataloader=dict(dataset=dataset(*classes) | {"img_suffix": ".webp"})))
        with pytest.raises(ValueError, match=r"train: holds no image that ends in \.webp"):
            check_data(cfg, ("train",))
    finally:
        from mmdet.utils import register_all_modules as back

        back(init_default_scope=True)


def test_panoptic_heads_count_things_and_stuff():
    check_num_classes({"panoptic_head": {"num_things_classes": 2, "num_stuff_classes": 1}}, ("a", "b", "c"))
    with pytest.raises(ValueError, match="num_things_classes=2 and num_stuff_classes=2 but the data set has 3"):
        check_num_classes({"panoptic_head": {"num_things_classes": 2, "num_stuff_classes": 2}}, ("a", "b", "c"))
