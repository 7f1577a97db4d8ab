"""Where images and their label maps lie: the names that every reader of folders goes by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGE_FOLDERS = ("images", "image", "JPEGImages", "img_dir", "leftImg8bit", "imgs")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "SegmentationClass", "ann_dir", "gtFine")
FOLDER_ENDINGS = ("annot", "_annot", "_labels", "_masks", "_mask", "labels", "masks")
"""What a folder of label maps is called behind the name of its image folder."""
MASK_ENDINGS = ("", "_mask", "_labels", "_L")
"""What a label map is called behind the name of its image."""


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; links to folders are not followed, so a loop of them ends."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def name_in(path: Path, folder: Path) -> str:
    """What an image and its label map have in common: the path below their folders, without suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def masks_by_name(folder: Path) -> dict[str, Path]:
    return {name_in(path, folder): path for path in image_files(folder)}


def mask_name(name: str, masks: Mapping[str, Path]) -> str | None:
    """The name among ``masks`` that belongs to the image ``name``: a goes with a, a_mask, a_labels or a_L."""
    return next((name + ending for ending in MASK_ENDINGS if name + ending in masks), None)


def find_mask_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of label maps of every split, {} if there are none; ``"all"`` where nothing is split.

    images/train/ beside masks/train/, images/ beside masks/, or train/ beside trainannot/, with the other names above.
    """
    if not folder.is_dir():
        return {}
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    for images in (folder / name for name in IMAGE_FOLDERS):
        if masks is not None and images.is_dir():
            parts = [part.name for part in sorted(images.iterdir()) if part.is_dir() and (masks / part.name).is_dir()]
            return {part: (images / part, masks / part) for part in parts} or {"all": (images, masks)}
    return {
        images.name: (images, folder / (images.name + ending))
        for images in sorted(path for path in folder.iterdir() if path.is_dir())
        for ending in reversed(FOLDER_ENDINGS)
        if (folder / (images.name + ending)).is_dir()
    }
