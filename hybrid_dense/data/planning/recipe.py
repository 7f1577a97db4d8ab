"""How to train on a data set that nobody trained on yet: image size, length, batch and rate from what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = (1333, 800)
"""Long and short side that detectors train COCO at."""
SMALLEST = 64
LARGEST_CROP = 512
LONGEST = 300  # epochs
SHORTEST = 3


@dataclass(frozen=True)
class Reference:
    """A training that is known to be long enough: ``epochs`` over ``images`` (COCO's 1x, ADE20K's 160k × 16)."""

    images: int
    epochs: int


REFERENCES = {
    "detect": Reference(117_266, 12),
    "instance": Reference(117_266, 12),
    "semantic": Reference(20_210, 127),
}
BATCH = {"detect": 2, "instance": 2, "semantic": 4}
"""Images a GPU."""


@dataclass(frozen=True)
class Recipe:
    """``scale`` is (long, short) side in pixels, ``crop`` (height, width), ``batch`` images a GPU."""

    scale: tuple[int, int]
    crop: tuple[int, int]
    epochs: int
    val_interval: int
    batch: int
    gpus: int

    @property
    def total_batch(self) -> int:
        return self.batch * self.gpus

    def learning_rate(self, base_rate: float, base_batch: int) -> float:
        """The linear rule (Goyal et al. 2017, section 2.1): the rate grows with the images of a step."""
        return float(f"{base_rate * self.total_batch / base_batch:.3g}")


def choose(sizes: Sequence[tuple[int, int]], images: int, task: str, gpus: int) -> Recipe:
    """A recipe for this many training images of these (height, width), as many as one likes to look at.

    Raises:
        ValueError: no images, or fewer than GPUs.
    """
    if not sizes or images < 1:
        raise ValueError("there is no image to train on")
    if gpus > images:
        raise ValueError(f"{gpus} GPUs are more than the {images} images to train on; --gpus {images} is the most")
    epochs = epochs_for(images, REFERENCES[task])
    scale = image_scale(sizes)
    return Recipe(
        scale=scale,
        crop=crop_size(sizes, scale),
        epochs=epochs,
        val_interval=math.ceil(epochs / 12),
        batch=min(BATCH[task], images // gpus),
        gpus=gpus,
    )


def epochs_for(images: int, reference: Reference) -> int:
    """Fewer images are seen more often, but less often in all: epochs grow with the root of the missing factor."""
    epochs = reference.epochs * math.sqrt(reference.images / images)
    return round(min(max(epochs, SHORTEST), LONGEST))


def image_scale(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(long, short): the median image as it is, room for the longer ones, never above `LARGEST`.

    Images that are all of one size keep it, up to `LARGEST`.
    """
    sides = np.sort(np.array(sizes, float), axis=1)
    short = float(np.clip(np.median(sides[:, 0]), SMALLEST, LARGEST[1]))
    elongation = float(np.quantile(sides[:, 1] / sides[:, 0], 0.95))
    long = max(min(short * elongation, LARGEST[0]), SMALLEST)
    return round(long), round(min(short, long))


def crop_size(sizes: Sequence[tuple[int, int]], scale: tuple[int, int]) -> tuple[int, int]:
    """(height, width): whole strides of 32 pixels inside the scaled image, as wide or tall as most images are."""
    upright = np.mean([height > width for height, width in sizes]) > 0.5
    long, short = (max(32, min(side, LARGEST_CROP) // 32 * 32) for side in scale)
    return (long, short) if upright else (short, long)
