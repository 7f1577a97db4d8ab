"""Any data set that the host can build: mmseg's, and types of the user's own. The host has read it, so what it drops is
not seen here; its images and masks are."""

from __future__ import annotations

from pathlib import Path

from mmengine.registry import DATASETS

from hybrid_dense.data.checks.records import Box, Entry, Problem, Split

IGNORE_LABEL = 255


def read_built(name: str, dataset: dict, source: Path, classes: tuple[str, ...], ignored: frozenset[int]) -> Split:
    """The split of a data set's config; ``ignored`` are label values that the model's losses leave out."""
    try:
        built = DATASETS.build(dict(dataset, pipeline=[], test_mode=True, lazy_init=False, serialize_data=False))
        infos = [built.get_data_info(index) for index in range(len(built))]
    except Exception as error:  # a data set class may raise anything
        said = f"{dataset['type']} cannot read it: {type(error).__name__} {error}"
        return Split(name, source, classes=classes, unreadable=(Problem(source, said),))
    if not infos and hasattr(built, "img_suffix"):
        said = f"holds no image that ends in {built.img_suffix} (dataset.img_suffix)"
        return Split(name, source, classes=classes, unreadable=(Problem(source, said),))
    semantic = any("seg_fields" in info for info in infos)
    return Split(
        name,
        source,
        tuple(read_info(index, info, classes, semantic) for index, info in enumerate(infos)),
        has_boxes=not semantic,
        classes=classes,
        labels=mask_values(infos[0], classes, ignored) if semantic and classes else None,
    )


def read_info(index: int, info: dict, classes: tuple[str, ...], semantic: bool) -> Entry:
    """One entry of mmengine's data list."""
    size = (info["width"], info["height"]) if "width" in info and "height" in info else None
    boxes = []
    for number, instance in enumerate(info.get("instances", ()), start=1):
        label = instance["bbox_label"]
        name = classes[label] if label < len(classes) else None
        boxes.append(Box(f"#{number}", name, str(label), tuple(map(float, instance["bbox"]))))
    mask = Path(info["seg_map_path"]) if semantic and info.get("seg_map_path") else None
    return Entry(str(info.get("img_id", index)), Path(info["img_path"]), size, tuple(boxes), mask)


def mask_values(info: dict, classes: tuple[str, ...], ignored: frozenset[int]) -> dict[int, str | None]:
    """What the values in a mask file of mmseg mean, before its loader renumbers them."""
    meanings: dict[int, str | None] = dict.fromkeys((IGNORE_LABEL, *ignored))
    if info.get("label_map"):
        numbers = info["label_map"].items()
    elif info.get("reduce_zero_label"):
        meanings[0] = None
        numbers = ((index + 1, index) for index in range(len(classes)))
    else:
        numbers = ((index, index) for index in range(len(classes)))
    return meanings | {value: classes[label] if label < len(classes) else None for value, label in numbers}
