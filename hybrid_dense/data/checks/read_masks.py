"""Images with a label map each: folders side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hybrid_dense.data.checks.records import Entry, Problem, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_masks(name: str, images: Path, masks: Path) -> Split:
    """Pair the images of a folder with the masks of another by their names without suffix.

    A mask may say behind the image's name what it is: ``a.jpg`` goes with ``a_mask.png`` or ``a_labels.png``.
    """
    found = {stem_of(path, masks): path for path in image_files(masks)}
    entries, paired = [], set()
    for path in image_files(images):
        stem = stem_of(path, images)
        mask = next((key for key in (stem, f"{stem}_mask", f"{stem}_labels", f"{stem}_L") if key in found), stem)
        paired.add(mask)
        entries.append(Entry(stem, path, mask=found.get(mask, masks / f"{stem}.png"), annotation=masks))
    orphans = (Problem(path, "mask without an image") for stem, path in found.items() if stem not in paired)
    return Split(name, images, tuple(entries), has_boxes=False, orphans=tuple(orphans))


def image_files(folder: Path) -> Iterable[Path]:
    """The image files below a folder, sorted; links to folders are not followed, so a loop of them ends."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def stem_of(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
