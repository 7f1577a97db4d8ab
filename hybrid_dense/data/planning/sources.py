"""What a data set gives a config: task, classes, and where a host finds train and val.

What a host cannot read as it is, is written beside the config: COCO JSON for boxes of VOC or of a part of a file,
label maps with the numbers 0, 1, … and 255.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_dense.data.formats.coco import is_complete, load_json, read_coco_file, write_coco_file
from hybrid_dense.data.formats.masks import UNLABELLED, class_names, mask_values, of_no_class, read_mask_folders
from hybrid_dense.data.formats.model import Category, DataSet, ImageRecord, Losses, split_by_name
from hybrid_dense.data.formats.palette import save_palette_png
from hybrid_dense.data.formats.voc import read_voc

MOST_SIZES = 2000  # images whose size is looked at
Records = tuple[ImageRecord, ...]


@dataclass(frozen=True)
class Split:
    """What a config says of one split: arguments of its data set and its annotation file, as pieces of Python."""

    arguments: tuple[str, ...]
    annotations: str
    images: int


@dataclass(frozen=True)
class Plan:
    """``sizes`` are (height, width) of training images, `MOST_SIZES` at most."""

    task: str
    source: Path
    classes: tuple[str, ...]
    data_root: Path
    splits: dict[str, Split]
    sizes: list[tuple[int, int]]


def plan_coco(train: list[Path], val: list[Path] | None, task: str | None, output: Path, losses: Losses) -> Plan:
    """``train`` and ``val`` are (annotation file, folder of images).

    Raises:
        FileNotFoundError: one of them is missing, or all images of a file are.
        ValueError: label maps are asked for, or the two files differ in their classes.
    """
    if task == "semantic":
        raise ValueError("objects are no label maps; run hybrid-dense convert-data … --from coco --to masks first")
    given = {"train": train} | ({"val": val} if val else {})
    for path in [path for pair in given.values() for path in pair]:
        if not path.exists():
            raise FileNotFoundError(f"no such folder or file: {path}")
    for file, images in given.values():
        if not file.is_file() or not images.is_dir():
            raise ValueError(f"{file} {images}: the annotation file (JSON) comes first, then the folder of its images")
    sets = {split: read_coco_file(file, images, losses) for split, (file, images) in given.items()}
    categories = sets["train"].categories
    if any(dataset.categories != categories for dataset in sets.values()):
        raise ValueError(f"{val[0]} has other classes than {train[0]}, or in another order; make them agree")
    splits = {split: next(iter(dataset.splits.values())) for split, dataset in sets.items()}
    for split, (file, images) in given.items():
        if not splits[split]:
            raise FileNotFoundError(no_image(file, images))
    task = task or usual_task(splits["train"])
    folders = {split: images.absolute() for split, (_, images) in given.items()}
    files = {
        split: file.absolute() for split, (file, _) in given.items() if val and host_reads(file, sets[split], task)
    }
    if not val:
        splits, folders["val"] = held_out(splits["train"]), folders["train"]
    root = Path(os.path.commonpath([*folders.values(), *files.values()]))
    return plan_boxes(DataSet(categories, splits), task, train[0], folders, files, root, output, losses)


def no_image(file: Path, images: Path) -> str:
    """Why an annotation file gives no image of this folder."""
    listed = load_json(file)["images"]
    if not listed:
        return f"{file} lists no image"
    return f"none of the {len(listed)} images of {file} is in {images} (first: {listed[0]['file_name']})"


def host_reads(file: Path, dataset: DataSet, task: str) -> bool:
    """Whether the annotation file can be used as it is."""
    instances = [one for records in dataset.splits.values() for record in records for one in record.instances]
    return is_complete(file, dataset) and (task == "detect" or all(one.segmentation is not None for one in instances))


def usual_task(records: Records) -> str:
    """``instance`` where most objects have a mask."""
    masked = [instance.segmentation is not None for record in records for instance in record.instances]
    return "instance" if sum(masked) > len(masked) / 2 else "detect"


def held_out(records: Records) -> dict[str, Records]:
    """A fifth of the images to validate on, chosen by their names."""
    train, val = map(set, split_by_name([record.file_name for record in records]))
    return {
        split: tuple(record for record in records if record.file_name in names)
        for split, names in (("train", train), ("val", val))
    }


def plan_boxes(
    dataset: DataSet,
    task: str,
    source: Path,
    folders: dict[str, Path],
    files: dict[str, Path],
    root: Path,
    output: Path,
    losses: Losses,
) -> Plan:
    """The plan of a detector; annotation files that are not given are written beside the config."""
    if task == "instance":
        masked = {split: only_masked(records, losses) for split, records in dataset.splits.items()}
        dataset = replace(dataset, splits=masked)
    splits = {}
    for split, records in dataset.splits.items():
        if split in files:
            annotations = below(root, files[split])
        else:
            written = output.with_name(f"{output.stem}_{split}.json")
            near = tuple(replace(one, file_name=os.path.relpath(one.path, folders[split])) for one in records)
            write_coco_file(replace(dataset, splits={split: near}), split, written)
            annotations = beside(output, written)
        arguments = (f"ann_file={annotations}", f"data_prefix=dict(img={below(root, folders[split])})")
        splits[split] = Split(arguments, annotations, len(records))
    names = tuple(category.name for category in dataset.categories)
    return Plan(task, source, names, root, splits, some_sizes(dataset.splits["train"]))


def only_masked(records: Records, losses: Losses) -> Records:
    """The images with those objects only that have a mask; a mask head cannot learn from the others."""
    kept = []
    for record in records:
        instances = tuple(instance for instance in record.instances if instance.segmentation is not None)
        left_out = len(record.instances) - len(instances)
        losses.add("objects without a mask were left out; --task detect keeps them", str(record.path), left_out)
        kept.append(replace(record, instances=instances))
    return tuple(kept)


def plan_voc(folder: Path, task: str | None, output: Path, losses: Losses) -> Plan:
    """A folder in VOC's layout; for masks its lists in ImageSets/Segmentation say which images have them.

    Raises:
        FileNotFoundError: it is not in VOC's layout.
        ValueError: label maps are asked for, and there are none.
    """
    task = task or "detect"
    dataset = read_voc(folder, losses, "Main" if task == "detect" else "Segmentation")
    dataset = replace(dataset, splits=train_and_val(dataset.splits))
    images = (folder / "JPEGImages").absolute()
    folders = dict.fromkeys(dataset.splits, images)
    if task == "semantic":
        if any(record.label_map is None for records in dataset.splits.values() for record in records):
            raise ValueError(f"{folder} has images without a PNG in SegmentationClass; --task detect needs none")
        return plan_label_maps(dataset, folder, folders, output)
    return plan_boxes(dataset, task, folder, folders, {}, folder.absolute(), output, losses)


def train_and_val(splits: dict[str, Records]) -> dict[str, Records]:
    """train and val where both are, else trainval and test, else a fifth of all held out."""
    for names in (("train", "val"), ("trainval", "test"), ("train", "test")):
        if all(splits.get(name) for name in names):
            return {"train": splits[names[0]], "val": splits[names[1]]}
    everything = {record.path: record for records in splits.values() for record in records}
    return held_out(tuple(everything.values()))


def plan_masks(train: list[Path], val: list[Path] | None, classes: list[str], output: Path, losses: Losses) -> Plan:
    """``train`` and ``val`` are (folder of images, folder of label maps).

    Raises:
        FileNotFoundError: a folder is missing, or no image has a label map.
        ValueError: fewer than two classes are named, a label map cannot be read, or none fits its image.
    """
    if not classes:
        raise ValueError("--masks needs --classes: the names of the numbers 0, 1, …, or a file of names")
    values = {Category(number, name): number for number, name in enumerate(class_names(classes))}
    if len(values) < 2:  # the softmax of one class is 1 whatever the model says
        raise ValueError("label maps need two classes at least; name the background too: --classes background fg")
    given = {"train": tuple(train)} | ({"val": tuple(val)} if val else {})
    seen: Counter[int] = Counter()
    dataset = read_mask_folders(given, values, losses, seen)
    for split, (images, masks) in given.items():
        if not dataset.splits[split]:
            raise ValueError(f"no label map in {masks} has the size of its image in {images}")
    for number in of_no_class(seen, values):
        share = f"{100 * seen[number] / seen.total():.1f} %"
        what = f"pixels ({share}) of number {number} are of no class and are ignored; name it in --classes if it is one"
        losses.add(what, "all label maps", seen[number])
    folders = {split: images.absolute() for split, (images, _) in given.items()}
    if not val:
        dataset = replace(dataset, splits=held_out(dataset.splits["train"]))
        folders["val"] = folders["train"]
    return plan_label_maps(dataset, train[0], folders, output)


def plan_label_maps(dataset: DataSet, source: Path, folders: dict[str, Path], output: Path) -> Plan:
    """The plan of a segmentor; label maps with other numbers than 0, 1, … and 255 are written anew."""
    values, _ = mask_values(dataset)
    order = sorted(values, key=values.get)
    numbers = {category.id: number for number, category in enumerate(order)}
    everything = [record for records in dataset.splits.values() for record in records]
    suffixes = {record.path.suffix for record in everything}
    mask_suffixes = {mask_suffix(record) for record in everything}
    readable = len(suffixes) == len(mask_suffixes) == 1 and all(
        reads_alike(record.label_map.ids, numbers, dataset.unlabelled) for record in everything
    )
    # Images of several suffixes keep them in their names, and their label maps get .png behind that.
    suffix = suffixes.pop() if len(suffixes) == 1 else ""
    root = Path(os.path.commonpath([*folders.values(), *(one.label_map.path.parent.absolute() for one in everything)]))
    splits = {}
    for split, records in dataset.splits.items():
        images = folders[split]
        names = [one.path.absolute().relative_to(images).as_posix().removesuffix(suffix) for one in records]
        listed = output.with_name(f"{output.stem}_{split}.txt")
        listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if readable:
            masks = records[0].label_map.path.absolute().parents[len(Path(names[0]).parts) - 1]
            masks, ending = below(root, masks), max(mask_suffixes)
        else:
            written = output.with_name(f"{output.stem}_masks") / split
            for name, record in zip(names, records, strict=True):
                save_palette_png(record.label_map.numbered(numbers, 0, UNLABELLED), written / f"{name}.png")
            masks, ending = beside(output, written), ".png"
        arguments = (
            f"ann_file={beside(output, listed)}",
            f"data_prefix=dict(img_path={below(root, images)}, seg_map_path={masks})",
            f"img_suffix={quoted(suffix)}",
            f"seg_map_suffix={quoted(ending)}",
        )
        splits[split] = Split(arguments, beside(output, listed), len(records))
    names = tuple(category.name for category in order)
    return Plan("semantic", source, names, root, splits, some_sizes(dataset.splits["train"]))


def mask_suffix(record) -> str:
    """What a label map has behind its image's name: ``.png``, or ``_mask.png``."""
    return record.label_map.path.name.removeprefix(record.path.stem)


def reads_alike(ids: dict[int, int], numbers: dict[int, int], unlabelled: int | None) -> bool:
    """Whether the numbers of a label map are those that the model learns."""
    return unlabelled in (None, UNLABELLED) and all(numbers.get(i, 0) == value for value, i in ids.items())


def some_sizes(records: Records) -> list[tuple[int, int]]:
    stride = -(-len(records) // MOST_SIZES) or 1
    return [(record.height, record.width) for record in records[::stride]]


def below(root: Path, path: Path) -> str:
    """A path as Python, from data_root."""
    inside = path.relative_to(root).as_posix()
    return "data_root" if inside == "." else f"data_root + {quoted(inside + ('/' if path.is_dir() else ''))}"


def beside(output: Path, path: Path) -> str:
    """A path as Python, from the folder of the config, which mmengine fills in."""
    return quoted("{{ fileDirname }}/" + path.relative_to(output.parent).as_posix())


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
