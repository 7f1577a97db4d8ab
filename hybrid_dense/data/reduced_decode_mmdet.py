"""Large JPEG photos for a small network: decoded at a half, a quarter or an eighth where they are resized to less.

    dict(type="LoadEncodedImage")                                     instead of LoadImageFromFile
    dict(type="LoadLateMasks")                                        or another loader of annotations
    dict(type="DecodeResize", scale=(1333, 800), keep_ratio=True)     instead of Resize, or in RandomResize:
    dict(type="RandomResize", resize_type="DecodeResize", …)

libjpeg leaves out the finer part of the cosine transform. simplejpeg, where it is installed, does that with less
copying than OpenCV. Boxes, masks and what evaluation is told belong to the photo as it is in the file.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image

from hybrid_dense.data.image_file import DECODE_ERRORS, TURNED, format_of, orientation

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

FLAGS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
"""What a side is divided by, coarsest first, and how OpenCV calls it."""


class Jpeg(NamedTuple):
    """A file's bytes, its (width, height) after it is turned upright, and whether it is stored so."""

    content: bytes
    size: tuple[int, int]
    upright: bool


@TRANSFORMS.register_module()
class LoadEncodedImage(BaseTransform):
    """Read a JPEG without decoding it, which `DecodeResize` does; other files are decoded here, as the host does it.

    It sets ``encoded`` (a `Jpeg`) or ``img``, and ``img_shape`` and ``ori_shape`` in both cases. Until `DecodeResize`
    there may only be transforms that do without ``img``, such as those that load annotations.

    Args:
        backend_args: where files lie, as mmengine's ``fileio`` takes it.

    Raises:
        AssertionError: the file cannot be decoded, as in mmcv's ``LoadImageFromFile``.
    """

    def __init__(self, backend_args: dict | None = None):
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        content = fileio.get(results["img_path"], backend_args=self.backend_args)
        jpeg = read_header(content)
        if jpeg is None:
            results["img"] = decode_whole(content, results["img_path"])
            shape = results["img"].shape[:2]
        else:
            results["encoded"], shape = jpeg, jpeg.size[::-1]
        results["img_shape"] = results["ori_shape"] = shape
        return results


@TRANSFORMS.register_module()
class DecodeResize(Resize):
    """mmdet's ``Resize``, which also decodes what `LoadEncodedImage` has read, no finer than it needs.

    Args:
        scale: (long, short) side, or (width, height) without ``keep_ratio``, in pixels.
        options: as of ``Resize``.

    Raises:
        AssertionError: the file cannot be decoded, as in mmcv's ``LoadImageFromFile``.
    """

    def __init__(self, scale, **options):
        super().__init__(scale=scale, **options)

    def _resize_img(self, results: dict) -> None:
        jpeg = results.pop("encoded", None)
        if jpeg is None:
            super()._resize_img(results)
            return
        size = mmcv.rescale_size(jpeg.size, results["scale"]) if self.keep_ratio else results["scale"]
        image = decode(jpeg, size, results["img_path"])
        results["img"] = mmcv.imresize(image, size, interpolation=self.interpolation, backend=self.backend)
        results["img_shape"] = size[1], size[0]
        results["scale_factor"] = size[0] / jpeg.size[0], size[1] / jpeg.size[1]
        results["keep_ratio"] = self.keep_ratio


def read_header(content: bytes) -> Jpeg | None:
    """None for what is no JPEG, or none that says how large it is."""
    if format_of(content[:12]) != "JPEG":
        return None
    try:
        with Image.open(BytesIO(content)) as image:
            turn = orientation(image)
            size = image.size[::-1] if turn in TURNED else image.size
            return Jpeg(content, size, upright=turn not in range(2, 9))
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return None


def decode(jpeg: Jpeg, size: tuple[int, int], path: str) -> np.ndarray:
    """BGR uint8 (h, w, 3) of the coarsest reduction that is no smaller than ``size``, (width, height)."""
    room = min(have // want for have, want in zip(jpeg.size, size, strict=True))
    reduction = next(number for number in FLAGS if number <= max(room, 1))
    if simplejpeg and jpeg.upright:
        try:
            width, height = (-(-side // reduction) for side in jpeg.size)
            return simplejpeg.decode_jpeg(jpeg.content, "BGR", min_width=width, min_height=height, min_factor=1)
        except ValueError:  # OpenCV forgives more, as users of the host expect
            pass
    return decode_whole(jpeg.content, path, FLAGS[reduction])


def decode_whole(content: bytes, path: str, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = mmcv.imfrombytes(content, flag=flag, backend="cv2")
    assert image is not None, f"failed to load image: {path}"
    return image
