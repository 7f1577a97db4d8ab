"""Images with a label map each: folders side by side."""

from __future__ import annotations

from pathlib import Path

from hybrid_dense.data.checks.records import Entry, Problem, Split
from hybrid_dense.data.image_folders import image_files, mask_name, masks_by_name, name_in


def read_masks(name: str, images: Path, masks: Path) -> Split:
    """Pair the images of a folder with the masks of another by their names (``image_folders.mask_name``)."""
    found = masks_by_name(masks)
    entries, paired = [], set()
    for path in image_files(images):
        own = name_in(path, images)
        mask = mask_name(own, found)
        paired.add(mask)
        entries.append(Entry(own, path, mask=found.get(mask, masks / f"{own}.png"), annotation=masks))
    orphans = (Problem(path, "mask without an image") for other, path in found.items() if other not in paired)
    return Split(name, images, tuple(entries), has_boxes=False, orphans=tuple(orphans))
