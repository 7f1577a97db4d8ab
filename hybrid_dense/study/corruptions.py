"""Images as they come from worse cameras and places: noise, blur, brightness, JPEG and shift at five strengths.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019),
with their strengths for noise, blur, brightness and JPEG. Shift is ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

STRENGTHS = (1, 2, 3, 4, 5)
LOADERS = ("LoadImage",)
LABEL_LOADERS = ("LoadAnnotations",)


@dataclass(frozen=True)
class Corruption:
    """How an image is made worse.

    Args:
        change: (image (h, w, 3) uint8, amount, random numbers) to an image of the same kind.
        amounts: for the five strengths.
        unit: what the amounts are.
    """

    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    amounts: tuple[float, ...]
    unit: str


def add_noise(image: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    return _to_bytes(image + random.normal(scale=255 * amount, size=image.shape))


def blur(image: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), amount)


def brighten(image: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    colours = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
    colours[..., 2] = np.minimum(colours[..., 2] + amount, 1)
    return _to_bytes(255 * cv2.cvtColor(colours, cv2.COLOR_HSV2BGR))


def compress(image: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(amount)])[1], cv2.IMREAD_COLOR)


def shift(image: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """Move by this share of the shorter side in a random one of the four diagonal directions; the edge is mirrored."""
    return move(image, draw_move(image.shape[:2], amount, random))


def draw_move(size: tuple[int, int], amount: float, random: np.random.Generator) -> tuple[int, int]:
    """(rows, columns) by which an image of this height and width is moved."""
    steps = max(1, round(amount * min(size)))
    rows, columns = random.choice([-1, 1], size=2)
    return int(rows) * steps, int(columns) * steps


def move(array: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    """Move an image or a label map (h, w, …) down and right; what comes in at the edges is what was mirrored there."""
    (rows, columns), (height, width) = by, array.shape[:2]
    margin = max(abs(rows), abs(columns))
    # Labels are indices, and mirroring them mixes none.
    wide = np.pad(array, [(margin, margin)] * 2 + [(0, 0)] * (array.ndim - 2), mode="symmetric")
    return np.ascontiguousarray(wide[margin - rows :, margin - columns :][:height, :width])


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(add_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation, of the full range"),
    "blur": Corruption(blur, (1, 2, 3, 4, 6), "standard deviation of a Gaussian, pixels"),
    "brightness": Corruption(brighten, (0.1, 0.2, 0.3, 0.4, 0.5), "added to the value in HSV, of the full range"),
    "jpeg": Corruption(compress, (25, 18, 15, 10, 7), "quality"),
    "shift": Corruption(shift, (0.01, 0.02, 0.04, 0.08, 0.16), "share of the shorter side, in both directions"),
}


def corruption_rows() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the table of strengths."""
    rows = [
        (name, *(f"{amount:g}" for amount in corruption.amounts), corruption.unit)
        for name, corruption in CORRUPTIONS.items()
    ]
    return ("corruption", *map(str, STRENGTHS), "what the number is"), rows


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Make an image worse; it stands behind the step that loads the image.

    The same image is changed in the same way each time, for the random numbers follow from its place in the data set
    and the corruption; a greater strength makes more of the same ones.

    Args:
        corruption: a name in ``CORRUPTIONS``.
        strength: 1 to 5.

    Raises:
        ValueError: an unknown corruption or strength.
    """

    def __init__(self, corruption: str, strength: int):
        if corruption not in CORRUPTIONS:
            raise ValueError(f"corruption {corruption!r} is none of {', '.join(CORRUPTIONS)}")
        if strength not in STRENGTHS:
            raise ValueError(f"strength {strength!r} is none of {STRENGTHS}")
        self.corruption, self.strength = corruption, strength

    def transform(self, results: dict) -> dict:
        """Changes ``img``, (h, w, 3) uint8, and notes in ``moved_by`` where a shift has taken it.

        Raises:
            ValueError: the image is of another kind, or a shift would have to move boxes.
        """
        image = results["img"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{image.dtype} {image.shape} cannot be corrupted; load (h, w, 3) uint8: to_float32=False")
        corruption = CORRUPTIONS[self.corruption]
        amount = corruption.amounts[self.strength - 1]
        seed = [results["sample_idx"], zlib.crc32(self.corruption.encode())]
        if self.corruption == "shift":
            if results.get("instances"):
                raise ValueError("shift moves label maps, not boxes; leave it out: --corruptions noise blur …")
            # The same numbers again tell where to.
            results["moved_by"] = draw_move(image.shape[:2], amount, np.random.default_rng(seed))
        results["img"] = corruption.change(image, amount, np.random.default_rng(seed))
        return results


@TRANSFORMS.register_module()
class MoveLabels(BaseTransform):
    """Move the label map as `Corrupt` has moved its image; it stands behind the step that loads the labels.

    The labels are in pixels of the file, as the image was when it moved.
    """

    def transform(self, results: dict) -> dict:
        if "moved_by" in results and "gt_seg_map" in results:
            results["gt_seg_map"] = move(results["gt_seg_map"], results["moved_by"])
        return results


def corrupt_pipeline(pipeline: list[dict], corruption: str, strength: int) -> list[dict]:
    """A test pipeline's steps with the corruption behind the image's loading, and labels that go with it.

    Raises:
        ValueError: no step loads an image.
    """
    corrupted, loaded = [], False
    for step in pipeline:
        corrupted.append(step)
        name = step["type"] if isinstance(step["type"], str) else step["type"].__name__
        if name.startswith(LOADERS):
            loaded = True
            corrupted.append(dict(type="Corrupt", corruption=corruption, strength=strength))
        elif name.startswith(LABEL_LOADERS):
            corrupted.append(dict(type="MoveLabels"))
    if not loaded:
        raise ValueError("no step of the test pipeline loads an image (LoadImage…), so none can be corrupted")
    return corrupted


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).round().astype(np.uint8)
