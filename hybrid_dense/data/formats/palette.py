"""PNGs of numbers that show as colours: PASCAL VOC's palette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_palette_png(numbers: np.ndarray, path: Path) -> None:
    """Write uint8 (h, w) as a PNG in VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers)
    image.putpalette(voc_colours().ravel().tolist())
    image.save(path)


def voc_colours() -> np.ndarray:
    """VOC's colour map, uint8 (256, 3): the bits of the number, spread over red, green and blue from the top down."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * step + channel)) & 1) << (7 - step)).astype(np.uint8)
    return colours
