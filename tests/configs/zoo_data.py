"""A few real images in the official layout of every data set that the zoo names; drawn scenes where there are none."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from pycocotools import mask as coco_mask

IMAGES = 4
VOID = 255


def write_layouts(root: Path, real: Path | None, scenes: Path) -> Path:
    """Write `root`/data/{coco,VOCdevkit,ade,cityscapes,camvid}, from the folder of real data if there is one."""
    data = root / "data"
    if real is None:
        write_coco_of_scenes(data / "coco", scenes)
        write_voc(data / "VOCdevkit", boxes_of_scenes(scenes))
        labelled = list(labels_of_scenes(scenes))
    else:
        (data / "coco/annotations").mkdir(parents=True)
        for split in ("train2017", "val2017"):
            (data / "coco" / split).symlink_to(real / "tiny_coco" / split)
            name = f"annotations/instances_{split}.json"
            (data / "coco" / name).symlink_to(real / "tiny_coco" / name)
        write_voc(data / "VOCdevkit", boxes_of_bccd(real / "bccd"))
        labelled = list(labels_of_camvid(real / "camvid"))
    write_panoptic(data / "coco")
    write_semantic(data, labelled)
    (data / "tiny_coco").symlink_to(data / "coco")
    return root


def coco_names() -> tuple[str, ...]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO["classes"]


def write_coco_of_scenes(folder: Path, scenes: Path) -> None:
    """The scenes under the names of COCO; a disk is a person, and so on."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}2017").symlink_to(scenes / split)
        content = json.loads((scenes / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [dict(id=number, name=name) for number, name in enumerate(coco_names(), start=1)]
        (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


def write_panoptic(folder: Path) -> None:
    """Panoptic annotations from instances: what no instance covers is the first stuff class."""
    from mmdet.datasets import CocoPanopticDataset

    stuff = CocoPanopticDataset.METAINFO["stuff_classes"]
    for split in ("train2017", "val2017"):
        content = json.loads((folder / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [dict(category, isthing=1) for category in content["categories"]] + [
            dict(id=200 + number, name=name, isthing=0) for number, name in enumerate(stuff)
        ]
        (folder / f"annotations/panoptic_{split}").mkdir()
        panoptic = []
        for image in content["images"][: 3 * IMAGES]:
            size = image["height"], image["width"]
            ids = np.ones(size, np.int32)
            segments = [dict(id=1, category_id=200, iscrowd=0, bbox=[0, 0, *reversed(size)], area=size[0] * size[1])]
            objects = [item for item in content["annotations"] if item["image_id"] == image["id"]]
            for number, item in enumerate(objects, start=2):
                ids[decode(item["segmentation"], *size)] = number
                kept = {key: item[key] for key in ("category_id", "iscrowd", "bbox", "area")}
                segments.append(dict(kept, id=number))
            segments = [segment for segment in segments if (ids == segment["id"]).any()]
            name = Path(image["file_name"]).with_suffix(".png").name
            planes = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1)  # OpenCV's order: blue first
            cv2.imwrite(str(folder / f"annotations/panoptic_{split}" / name), planes.astype(np.uint8))
            panoptic.append(dict(image_id=image["id"], file_name=name, segments_info=segments))
        content.update(images=content["images"][: 3 * IMAGES], annotations=panoptic)
        (folder / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))


def decode(segmentation: dict | list, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        rle = coco_mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    else:
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return coco_mask.decode(rle).astype(bool)


def boxes_of_bccd(folder: Path) -> Iterator[tuple[Path, list]]:
    names = dict(RBC="person", WBC="car", Platelets="cat")
    for name in (folder / "ImageSets/Main/train.txt").read_text().split()[:IMAGES]:
        objects = ElementTree.parse(folder / f"Annotations/{name}.xml").getroot().findall("object")
        corners = ("xmin", "ymin", "xmax", "ymax")
        boxes = [
            [names[item.findtext("name")], *(item.findtext(f"bndbox/{key}") for key in corners)] for item in objects
        ]
        yield folder / f"JPEGImages/{name}.jpg", boxes


def boxes_of_scenes(scenes: Path) -> Iterator[tuple[Path, list]]:
    names = ("person", "car", "cat", "dog", "chair", "boat")
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    for image in content["images"][:IMAGES]:
        found = [item for item in content["annotations"] if item["image_id"] == image["id"]]
        corners = [(x + 1, y + 1, x + width, y + height) for x, y, width, height in (item["bbox"] for item in found)]
        boxes = [
            [names[item["category_id"] - 1], *map(str, map(round, box))]
            for item, box in zip(found, corners, strict=True)
        ]
        yield scenes / "train" / image["file_name"], boxes


def write_voc(folder: Path, images: Iterator[tuple[Path, list]]) -> None:
    """The same images as VOC2007 and as VOC2012."""
    images = list(images)
    for year in ("VOC2007", "VOC2012"):
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / year / part).mkdir(parents=True)
        for split in ("trainval", "test"):
            (folder / year / f"ImageSets/Main/{split}.txt").write_text("".join(f"{path.stem}\n" for path, _ in images))
        for path, boxes in images:
            shutil.copy(path, folder / year / f"JPEGImages/{path.stem}.jpg")
            height, width = cv2.imread(str(path)).shape[:2]
            objects = "".join(
                f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for name, x1, y1, x2, y2 in boxes
            )
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            text = f"<annotation>{size}{objects}</annotation>"
            (folder / year / f"Annotations/{path.stem}.xml").write_text(text)


def labels_of_camvid(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and label maps; the void label is VOID."""
    for path in sorted((folder / "train").iterdir())[:IMAGES]:
        labels = cv2.imread(str(folder / f"trainannot/{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        yield cv2.imread(str(path)), np.where(labels == 11, VOID, labels).astype(np.uint8)


def labels_of_scenes(scenes: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in sorted((scenes / "train").iterdir())[:IMAGES]:
        labels = cv2.imread(str(scenes / f"train_labels/{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        yield cv2.imread(str(path)), labels


def write_semantic(data: Path, labelled: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The same pairs as PASCAL VOC 2012, ADE20K, Cityscapes and CamVid, each with its suffixes and its void."""
    voc = data / "VOCdevkit/VOC2012"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "aug", "val"):
        names = "".join(f"camvid_{number}\n" for number in range(len(labelled)))
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    for number, (image, labels) in enumerate(labelled):
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            write(voc / f"{folder}/camvid_{number}.png", labels)
        write(voc / f"JPEGImages/camvid_{number}.jpg", image)
        for split in ("training", "validation"):
            write(data / f"ade/ADEChallengeData2016/images/{split}/{number}.jpg", image)
            # 255 becomes 0, which means "other" there.
            write(data / f"ade/ADEChallengeData2016/annotations/{split}/{number}.png", labels + np.uint8(1))
        for split in ("train", "val"):
            write(data / f"cityscapes/leftImg8bit/{split}/town/{number}_leftImg8bit.png", image)
            write(data / f"cityscapes/gtFine/{split}/town/{number}_gtFine_labelTrainIds.png", labels)
            write(data / f"camvid/{split}/{number}.png", image)
            write(data / f"camvid/{split}annot/{number}.png", np.where(labels == VOID, 11, labels))


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
