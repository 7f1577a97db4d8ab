"""The splits of a config: which reader suits which data set class."""

from __future__ import annotations

import inspect
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import list_from_file

from hybrid_dense.data.checks.read_built import read_built
from hybrid_dense.data.checks.read_coco import read_coco
from hybrid_dense.data.checks.read_voc import read_voc
from hybrid_dense.data.checks.records import Split
from hybrid_dense.registered import find_class

SPLITS = ("train", "val", "test")


def read_config(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[Split]:
    """Every data set of these splits, those inside wrappers and concatenations included; the host is registered.

    Raises:
        FileNotFoundError: an annotation file or image folder is missing.
    """
    found: list[Split] = []
    for name in splits:
        for dataset in innermost(cfg.get(f"{name}_dataloader")):
            check_files(dataset, name)
            split = read_dataset(name, dataset, cfg)
            # The test set of most configs is their validation set.
            if split.source not in [other.source for other in found if other.name != name]:
                found.append(split)
    return found


def innermost(node: dict | None) -> list[dict]:
    """The data sets with files under a data loader or a wrapper such as RepeatDataset or ConcatDataset."""
    if not node:
        return []
    if "dataset" in node:
        return innermost(node["dataset"])
    if "datasets" in node:
        return [inner for dataset in node["datasets"] for inner in innermost(dataset)]
    return [node]


def check_files(dataset: dict, split: str) -> None:
    root = Path(dataset.get("data_root") or "")
    wanted = [root / folder for folder in dict(dataset.get("data_prefix") or {}).values() if folder]
    if dataset.get("ann_file"):
        wanted.append(root / dataset["ann_file"])
    for path in wanted:
        if not path.exists():
            raise FileNotFoundError(
                f"the {split} data set needs {path}, which does not exist; --cfg-options data_root=DIR names its folder"
            )


def class_names(dataset: dict) -> tuple[str, ...]:
    """The classes that the config gives the data set, else the data set class's own."""
    metainfo = dataset.get("metainfo") or getattr(find_class(dataset["type"]), "METAINFO", {})
    classes = metainfo.get("classes", ())
    if isinstance(classes, str):  # mmengine takes a file with one name a line
        return tuple(list_from_file(classes)) if Path(classes).is_file() else (classes,)
    return tuple(classes)


def read_dataset(name: str, dataset: dict, cfg: Config) -> Split:
    reader = defined_in(find_class(dataset["type"]), "load_data_list")
    classes = class_names(dataset)
    root, prefix = Path(dataset.get("data_root") or ""), dict(dataset.get("data_prefix") or {})
    source = root / (dataset.get("ann_file") or "")
    if reader == "CocoDataset" and source.suffix == ".json":
        images = root / (prefix.get("img") or prefix.get("img_path") or "")
        return read_coco(name, source, images, classes, masks=needs_masks(dataset))
    if reader == "XMLDataset":
        folder = root / prefix.get("sub_data_root", "")
        images = folder / dataset.get("img_subdir", "JPEGImages")
        annotations = folder / dataset.get("ann_subdir", "Annotations")
        return read_voc(name, source, list_from_file(str(source)), images, annotations, classes)
    if not dataset.get("ann_file"):
        source = root / (prefix.get("img_path") or prefix.get("img") or "")
    return read_built(name, dataset, source, classes, ignored_labels(cfg.model, dataset))


def defined_in(kind: type | None, method: str) -> str | None:
    """The name of the class whose method an object of this class calls; by name, since no host is imported here."""
    parents = inspect.getmro(kind) if inspect.isclass(kind) else ()
    return next((parent.__name__ for parent in parents if method in vars(parent)), None)


def needs_masks(dataset: dict) -> bool:
    """Whether a mask is loaded for each object."""
    return any(step.get("with_mask", step.get("type") == "LoadLateMasks") for step in dataset.get("pipeline") or ())


def ignored_labels(model: dict, dataset: dict) -> frozenset[int]:
    """``ignore_index`` of the data set and of every decode head."""
    found = {dataset.get("ignore_index", 255)}
    for key in ("decode_head", "auxiliary_head"):
        heads = model.get(key) or ()
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            found.add(head.get("ignore_index", 255))
    return frozenset(found)
