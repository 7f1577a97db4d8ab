"""COCO, VOC and label maps hold the same data set; hostile files cost what is broken in them and no more."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hybrid_dense.data.formats.coco import read_coco, read_coco_file, write_coco
from hybrid_dense.data.formats.masks import class_names, read_mask_folders, read_masks, write_masks
from hybrid_dense.data.formats.model import Category, Losses, image_size, split_by_name
from hybrid_dense.data.formats.palette import voc_colours
from hybrid_dense.data.formats.segmentation import decode, encode, fault_of
from hybrid_dense.data.formats.voc import read_voc
from hybrid_dense.data.formats.voc_writer import write_voc

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def through(dataset, write, read, folder: Path):
    """Written and read again; nothing may be lost on the way back."""
    write(dataset, folder, Losses(), link=True)
    losses = Losses()
    again = read(folder, losses)
    assert not losses.lines()
    return again


def assert_same(one, two, box_slack: float = 0.0):
    """Splits, ids, names, sizes, classes, flags and masks are equal; boxes within ``box_slack`` pixels."""
    assert one.categories == two.categories
    assert list(one.splits) == list(two.splits)
    for split, records in one.splits.items():
        assert len(records) == len(two.splits[split]) > 0
        for a, b in zip(records, two.splits[split], strict=True):
            assert (a.id, a.file_name, a.height, a.width) == (b.id, b.file_name, b.height, b.width)
            assert b.path.read_bytes() == a.path.read_bytes()
            for x, y in zip(a.instances, b.instances, strict=True):
                assert replace(x, box=y.box, area=y.area) == y
                assert x.area is None or x.area == y.area
                np.testing.assert_allclose(x.box, y.box, rtol=0, atol=box_slack)


def drawn_coco(root: Path) -> Path:
    """Two splits that name their images alike, with every kind of segmentation COCO knows and gaps between the ids."""
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30), bool)
    mask[3:9, 5:12] = True
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    flat = mask.T.ravel().astype(int)
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    kinds = [
        {"segmentation": [[1, 1, 11, 1, 11, 8, 1, 8]], "iscrowd": 0, "bbox": [1, 1, 10, 7], "truncated": 1},
        {"segmentation": {"size": [20, 30], "counts": counts}, "iscrowd": 0, "bbox": [5, 3, 7, 6]},
        {"segmentation": {"size": [20, 30], "counts": runs}, "iscrowd": 1, "bbox": [5, 3, 7, 6]},
        {"bbox": [2, 2, 4, 4], "iscrowd": 1, "difficult": 1},
    ]
    for split, first in (("train", 7), ("val", 90)):
        images, annotations = [], []
        for number in range(2):
            name = f"straße/日本_{number}.png"
            (root / split / "straße").mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(root / split / name)
            images.append({"id": first + number, "file_name": name, "height": 20, "width": 30})
            for position, kind in enumerate(kinds):
                ids = {"id": 1000 + len(annotations), "image_id": first + number, "area": 40.5}
                annotations.append({**kind, **ids, "category_id": (3, 44)[position % 2]})
        categories = [{"id": 3, "name": "Katze & Hund", "supercategory": "tier"}, {"id": 44, "name": "<mark>"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def made(tmp_path):
    losses = Losses()
    dataset = read_coco(drawn_coco(tmp_path / "made"), losses)
    assert not losses.lines()
    return dataset


def test_coco_to_voc_and_back_keeps_all(made, tmp_path):
    voc = through(made, write_voc, read_voc, tmp_path / "voc")
    assert_same(made, voc)
    assert_same(made, through(voc, write_coco, read_coco, tmp_path / "coco"))
    xml = (tmp_path / "voc/Annotations/train/straße/日本_0.xml").read_text(encoding="utf-8")
    # x 1, width 10: the first pixel is the second one, the last the eleventh.
    assert "<xmin>2</xmin>" in xml and "<xmax>11</xmax>" in xml
    assert xml.count("<difficult>1</difficult>") == 2 and xml.count("<truncated>1</truncated>") == 1
    assert (tmp_path / "voc/ImageSets/Main/trainval.txt").read_text().count("\n") == 4


def test_written_coco_is_what_pycocotools_reads(made, tmp_path, capsys):
    write_coco(made, tmp_path / "coco", Losses())
    coco = COCO(str(tmp_path / "coco/annotations/instances_val.json"))
    masks = [coco.annToMask(one) for one in coco.loadAnns(coco.getAnnIds(imgIds=[91])) if "segmentation" in one]
    records = made.splits["val"][1]
    for mask, instance in zip(masks, records.instances, strict=False):
        assert (mask == decode(instance.segmentation, 20, 30)).all() and mask.any()
    assert coco.loadAnns([1003])[0]["iscrowd"] == 1  # VOC's difficult counts neither way in COCO's evaluation


def test_scenes_keep_their_masks_through_the_png_alone(scenes, tmp_path):
    losses = Losses()
    dataset = read_coco(scenes, losses)
    write_voc(dataset, tmp_path / "voc", losses)
    assert not losses.lines()  # masks of scenes never overlap, and their boxes are whole pixels
    for path in (tmp_path / "voc/Annotations").rglob("*.xml"):
        text = path.read_text()
        while "<segmentation>" in text:
            head, _, rest = text.partition("<segmentation>")
            text = head + rest.partition("</segmentation>")[2]
        path.write_text(text)
    again = read_voc(tmp_path / "voc", Losses())
    for one, two in zip(dataset.splits["train"], again.splits["train"], strict=True):
        for x, y in zip(one.instances, two.instances, strict=True):
            size = one.height, one.width
            assert (decode(x.segmentation, *size) == decode(y.segmentation, *size)).all()
    with Image.open(next((tmp_path / "voc/SegmentationClass").rglob("*.png"))) as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]


def test_label_maps_to_coco_and_back_are_equal(scenes, tmp_path):
    classes = ("background", "disk", "square", "triangle", "star", "ring", "cross")
    masks = read_masks(scenes, Losses(), classes)
    assert masks.unlabelled == 255
    coco = through(masks, write_coco, read_coco, tmp_path / "coco")
    assert coco.unlabelled == 255 and coco.categories == masks.categories
    assert_maps_equal(masks, through(coco, write_masks, read_masks, tmp_path / "masks"))
    assert_maps_equal(masks, through(masks, write_voc, read_voc, tmp_path / "voc"), by_id=True)


def assert_maps_equal(one, two, by_id: bool = False):
    for split, records in one.splits.items():
        for a, b in zip(records, two.splits[split], strict=True):
            if by_id:
                assert (a.label_map.read() == np.maximum(b.label_map.read(), -1)).all()
            else:
                assert (a.label_map.values() == b.label_map.values()).all()


def test_background_void_and_numbers_with_gaps(tmp_path):
    """What is nothing, what nobody labelled, and classes 3 and 7 stay apart on every way."""
    numbers = np.array([[0, 3, 3, 7], [7, 7, 200, 0]], np.uint8)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    Image.fromarray(numbers).save(tmp_path / "b/x.png")
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "a/x.png")
    values = {Category(i, name): i for i, name in ((0, "background"), (3, "tree"), (7, "car"))}
    dataset = read_mask_folders({"train": (tmp_path / "a", tmp_path / "b")}, values, Losses(), Counter())
    assert dataset.unlabelled == 200
    for name, write, read in (("voc", write_voc, read_voc), ("coco", write_coco, read_coco)):
        between = through(dataset, write, read, tmp_path / name)
        masks = through(between, write_masks, read_masks, tmp_path / f"{name}_masks")
        assert (masks.splits["train"][0].label_map.values() == numbers).all()
    with Image.open(tmp_path / "voc/SegmentationClass/x.png") as image:
        assert np.array(image).tolist() == [[0, 1, 1, 2], [2, 2, 255, 0]]


@pytest.mark.parametrize(("others", "notes"), [((9,), 0), ((9, 200), 2), ((9, 255), 1), ((255,), 0)], ids=str)
def test_of_several_numbers_of_no_class_each_is_counted(tmp_path, others, notes):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.array([[0, 1, *others]], np.uint8)).save(tmp_path / "masks/x.png")
    Image.new("RGB", (2 + len(others), 1)).save(tmp_path / "images/x.png")
    losses = Losses()
    dataset = read_masks(tmp_path, losses, ["a", "b"])
    assert len(losses.lines()) == notes and all("which is no class, become 255" in line for line in losses.lines())
    assert dataset.unlabelled == (others[0] if len(others) == 1 else 255)


def test_instances_become_label_maps_small_over_large(made, tmp_path):
    losses = Losses()
    write_masks(made, tmp_path, losses)
    with Image.open(tmp_path / "masks/train/straße/日本_0.png") as image:
        drawn = np.array(image)
    assert drawn[0, 0] == 0  # background
    assert drawn[2, 2] == 1  # the polygon, class 3
    # The crowd of class 3 and the object of class 44 have one mask; equally large, the later one shows.
    assert drawn[8, 11] == 1
    lines = "\n".join(losses.lines())
    assert "4 boxes without a mask were left out" in lines and "pixels of two classes" in lines
    values = json.loads((tmp_path / "categories.json").read_text())
    assert [(row["name"], row["value"]) for row in values["categories"]] == [
        ("background", 0),
        ("Katze & Hund", 1),
        ("<mark>", 2),
    ]


def test_binary_masks_of_0_and_255(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images/x.png")
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / "masks/x.png")
    dataset = read_masks(tmp_path, Losses(), ("nothing", "line"))
    assert (dataset.splits["train"][0].label_map.read() == np.eye(4)).all()


# --- hostile files ---

XML = "<annotation><filename>x.png</filename>{size}{objects}</annotation>"
OBJECT = (
    "<object>{name}<difficult>1</difficult><truncated>1</truncated><bndbox><xmin>{xmin}</xmin><ymin>1</ymin>"
    "<xmax>3</xmax><ymax>4</ymax></bndbox></object>"
)


@pytest.fixture
def voc_folder(tmp_path):
    """Write XMLs by name; each has an image of 5×6 pixels."""

    def write(**xmls: str) -> Path:
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, xml in xmls.items():
            Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / f"JPEGImages/{name}.png")
            (tmp_path / f"Annotations/{name}.xml").write_text(xml, encoding="utf-8")
        return tmp_path

    return write


def test_hostile_voc_loses_only_what_is_broken(voc_folder):
    good = OBJECT.format(name="<name>Kugel ⚽</name>", xmin=2)
    folder = voc_folder(
        empty="",
        cut=XML[:20],
        none=XML.format(size="", objects=""),
        nameless=XML.format(size="", objects=OBJECT.format(name="", xmin=2) + good),
        nan=XML.format(
            size="<size><width>6</width><height>5</height></size>",
            objects=OBJECT.format(name="<name>a</name>", xmin="nan"),
        ),
        boxless=XML.format(size="", objects="<object><name>a</name></object>" + good),
    )
    names = ["empty", "cut", "none", "nameless", "nan", "boxless", "missing"]
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(names))
    (folder / "ImageSets/Main/cat_train.txt").write_text("none -1\nnan  1\n")
    losses = Losses()
    dataset = read_voc(folder, losses)
    kept = {record.file_name: record for record in dataset.splits["train"]}
    assert list(dataset.splits) == ["train"]
    assert set(kept) == {"none.png", "nameless.png", "nan.png", "boxless.png"}
    assert all((record.height, record.width) == (5, 6) for record in kept.values())
    assert [len(record.instances) for record in kept.values()] == [0, 1, 0, 1]
    ball = kept["nameless.png"].instances[0]
    assert ball.box == (1, 0, 2, 4) and ball.difficult and ball.truncated and not ball.crowd
    text = "\n".join(losses.lines())
    assert "2 images with an empty, broken or missing XML" in text and "cut.xml" in text
    assert "1 objects without a class name" in text and "2 objects without a box of four numbers" in text
    assert "1 images are not there" in text


def test_voc_with_label_maps_of_strange_classes_asks_for_the_list(voc_folder):
    folder = voc_folder(a=XML.format(size="", objects=OBJECT.format(name="<name>cell</name>", xmin=1)))
    (folder / "SegmentationClass").mkdir()
    with pytest.raises(ValueError, match=r"'cell' is none of VOC's twenty; .*categories.json"):
        read_voc(folder, Losses())
    (folder / "Annotations/a.xml").write_text(
        XML.format(size="", objects=OBJECT.format(name="<name>dog</name>", xmin=1))
    )
    dataset = read_voc(folder, Losses())
    assert len(dataset.categories) == 20 and dataset.splits["train"][0].instances[0].category_id == 12


def test_a_folder_above_voc_names_the_one_below(voc_folder):
    folder = voc_folder(a=XML.format(size="", objects=""))
    with pytest.raises(FileNotFoundError, match=f"did you mean {folder}"):
        read_voc(folder.parent, Losses())


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, "without a box of four numbers"),
        ({"bbox": [1, 2, 3]}, "without a box of four numbers"),
        ({"category_id": 99}, "of a class that the file does not list"),
        ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three points"),
        ({"segmentation": {"size": [30, 20], "counts": "abc"}}, "another image size"),
        ({"segmentation": {"size": [20, 30], "counts": "abc"}}, "do not fill the image"),
        ({"segmentation": {"size": [20, 30], "counts": [5, 5]}}, "do not fill the image"),
        ({"image_id": 12345}, "an image that the file does not list"),
        ({"keypoints": [1, 2, 3]}, "annotations lose 'keypoints'"),
    ],
)
def test_hostile_coco_annotations_are_counted(tmp_path, change, loss):
    file = drawn_coco(tmp_path) / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= change
    file.write_text(json.dumps(content))
    losses = Losses()
    dataset = read_coco_file(file, tmp_path / "val", losses)
    assert len(losses.lines()) == 1 and loss in losses.lines()[0] and losses.lines()[0].startswith("1 ")
    assert sum(len(record.instances) for record in dataset.splits["val"]) >= 7


@pytest.mark.parametrize("name", [None, ""])
def test_a_category_without_a_name_is_an_error(tmp_path, name):
    file = drawn_coco(tmp_path) / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["categories"][1]["name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="category without an id or a name"):
        read_coco(tmp_path, Losses())


@pytest.mark.parametrize("name", ["../../out.png", "{tmp}/out.png"], ids=["up", "absolute"])
def test_a_file_name_cannot_lead_out_of_the_target(tmp_path, name):
    file = drawn_coco(tmp_path / "source") / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    (tmp_path / "source/val/straße/日本_0.png").rename(tmp_path / "out.png")
    content["images"][0]["file_name"] = name.format(tmp=tmp_path)
    file.write_text(json.dumps(content))
    losses = Losses()
    dataset = read_coco_file(file, tmp_path / "source/val", losses)
    before = set(tmp_path.rglob("*"))
    target = tmp_path / "target/deep"
    write_coco(dataset, target / "coco", losses)
    write_voc(dataset, target / "voc", losses)
    assert all(path.is_relative_to(tmp_path / "target") for path in set(tmp_path.rglob("*")) - before)
    assert len(list((target / "coco/val").rglob("*.png"))) == len(list((target / "voc/JPEGImages").rglob("*.png"))) == 2
    assert not [line for line in losses.lines() if "left out" in line]


def test_sizes_and_boxes_that_coco_leaves_out_are_found(tmp_path):
    file = drawn_coco(tmp_path) / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    del content["images"][0]["height"], content["annotations"][1]["bbox"]
    file.write_text(json.dumps(content))
    losses = Losses()
    record = read_coco_file(file, tmp_path / "val", losses).splits["val"][0]
    assert (record.height, record.width) == (20, 30) and record.instances[1].box == (5, 3, 7, 6)
    assert not losses.lines()


def test_two_images_of_one_name_do_not_fit_into_voc(made, tmp_path):
    first, second = made.splits["train"]
    twins = replace(made, splits={"train": (first, replace(second, file_name=first.file_name.replace("png", "jpg")))})
    with pytest.raises(ValueError, match="has two images named"):
        write_voc(twins, tmp_path / "voc", Losses())


# --- the parts ---


def test_run_lengths_are_checked_as_pycocotools_reads_them():
    rng = np.random.default_rng(1)
    for _ in range(50):
        shape = tuple(rng.integers(1, 40, 2).tolist())
        mask = rng.random(shape) < rng.random()
        code = encode(mask)
        assert fault_of(code, *shape) is None
        assert (decode(code, *shape) == mask).all()
        assert fault_of({**code, "counts": code["counts"][:-1]}, *shape) is not None


def test_voc_colours_are_those_of_the_development_kit():
    assert voc_colours()[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


def test_a_photo_on_its_side_has_the_size_that_hosts_see(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    assert image_size(tmp_path / "x.jpg") == (30, 20)


def test_a_split_depends_on_the_names_only():
    names = [f"{number}.jpg" for number in range(50)]
    train, val = split_by_name(names)
    assert (train, val) == split_by_name(names[::-1])
    assert len(val) == 10 and sorted(train + val) == sorted(names)
    with pytest.raises(ValueError, match="two are the least"):
        split_by_name(["a.jpg"])


def test_class_names_come_from_a_file_too(tmp_path):
    (tmp_path / "names.txt").write_text("a b\n\nc\n")
    assert class_names([str(tmp_path / "names.txt")]) == ("a b", "c")
    with pytest.raises(ValueError, match="'x' is named twice"):
        class_names(["x", "y", "x"])


# --- real data ---


def test_tiny_coco_to_voc_and_back(data_root, tmp_path):
    dataset = read_coco(data_root / "tiny_coco", Losses())
    dataset = replace(dataset, splits={split: records[:12] for split, records in dataset.splits.items()})
    voc = through(dataset, write_voc, read_voc, tmp_path / "voc")
    # Each side of a box goes to the nearest pixel.
    assert_same(dataset, through(voc, write_coco, read_coco, tmp_path / "coco"), box_slack=1.0)


def test_bccd_to_coco_and_back(data_root, tmp_path):
    losses = Losses()
    dataset = read_voc(data_root / "bccd", losses)
    assert not losses.lines() and [category.name for category in dataset.categories] == ["Platelets", "RBC", "WBC"]
    sizes = {split: records[:20] for split, records in dataset.splits.items()}
    coco = through(replace(dataset, splits=sizes), write_coco, read_coco, tmp_path / "coco")
    again = through(coco, write_voc, read_voc, tmp_path / "voc")
    assert_same(coco, again)
    for record in again.splits["train"]:
        name = Path(record.file_name).stem
        source = (data_root / f"bccd/Annotations/{name}.xml").read_text()
        for key in ("xmin", "ymin", "xmax", "ymax", "difficult", "truncated"):
            assert numbers(source, key) == numbers((tmp_path / f"voc/Annotations/{name}.xml").read_text(), key)


def numbers(xml: str, tag: str) -> list[str]:
    return [part.partition("</")[0].strip() for part in xml.split(f"<{tag}>")[1:]]


def test_camvid_to_coco_and_voc_and_back(data_root, tmp_path):
    dataset = read_masks(data_root / "camvid", Losses(), CAMVID)
    assert dataset.unlabelled == 11 and {split: len(records) for split, records in dataset.splits.items()} == {
        "train": 367,
        "val": 101,
    }
    dataset = replace(dataset, splits={split: records[:8] for split, records in dataset.splits.items()})
    coco = through(dataset, write_coco, read_coco, tmp_path / "coco")
    voc = through(coco, write_voc, read_voc, tmp_path / "voc")
    assert_maps_equal(dataset, through(coco, write_masks, read_masks, tmp_path / "masks"))
    assert_maps_equal(dataset, through(voc, write_masks, read_masks, tmp_path / "masks_of_voc"))
