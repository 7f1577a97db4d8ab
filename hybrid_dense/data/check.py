"""Look before training: do the files exist, do the class names of data set, config and model agree?"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from hybrid_dense.registered import find_class

HEAD_KEYS = ("bbox_head", "mask_head", "decode_head", "auxiliary_head")


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check the data sets of these splits (``"train"``, ``"val"``, ``"test"``) against the config.

    Raises:
        FileNotFoundError: an annotation file or image folder is missing.
        ValueError: a class of the config is not in the annotation file, or a head's ``num_classes`` is not the number
            of classes.
    """
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        dataset = loader["dataset"]
        while "dataset" in dataset:  # RepeatDataset, MultiImageMixDataset
            dataset = dataset["dataset"]
        classes = class_names(dataset)
        check_files(dataset, split)
        if classes:
            check_annotated_classes(dataset, classes, split)
            check_num_classes(cfg.model, classes)


def class_names(dataset: dict) -> tuple[str, ...]:
    """The classes that the config gives the data set, else the data set class's own."""
    metainfo = dataset.get("metainfo") or getattr(find_class(dataset["type"]), "METAINFO", {})
    classes = metainfo.get("classes", ())
    return (classes,) if isinstance(classes, str) else tuple(classes)


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


def check_annotated_classes(dataset: dict, classes: tuple[str, ...], split: str) -> None:
    path = Path(dataset.get("data_root") or "") / (dataset.get("ann_file") or "")
    if path.suffix != ".json" or not path.is_file():
        return
    try:
        annotated = [category["name"] for category in json.loads(path.read_text())["categories"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a COCO annotation file: {type(error).__name__} {error}") from error
    unknown = [name for name in classes if name not in annotated]
    if unknown:
        near = get_close_matches(unknown[0], annotated, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(annotated[:10])}"
        raise ValueError(
            f"the {split} data set's classes do not match: {path} has no {', '.join(map(repr, unknown[:5]))} "
            f"({len(unknown)} of {len(classes)} classes unknown); {hint} Set dataset.metainfo.classes"
        )


def check_num_classes(model: dict, classes: tuple[str, ...]) -> None:
    for key, value in model.items():
        for head in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(head, dict):
                continue
            if key in HEAD_KEYS and head.get("num_classes", len(classes)) != len(classes):
                raise ValueError(
                    f"{key} has num_classes={head['num_classes']} but the data set has {len(classes)} classes "
                    f"({', '.join(classes[:6])}{', …' if len(classes) > 6 else ''}); make them equal"
                )
            check_num_classes(head, classes)
