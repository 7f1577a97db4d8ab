"""mmseg's sliding windows, several at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from mmengine.registry import MODELS
from mmseg.models import EncoderDecoder
from torch import Tensor


@MODELS.register_module()
class SlidingEncoderDecoder(EncoderDecoder):
    """mmseg's EncoderDecoder whose sliding windows go through the network several at a time.

    The logits are mmseg's: where windows overlap, their mean; windows at the right and lower edge are moved inside, and
    an image smaller than a window is one window. mmseg takes one window of each image at a time; here windows of all
    images of a batch make up batches of ``test_cfg["batch"]``, which bounds what the network needs.

    ``test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341), batch=8)``; without ``batch``, 4. The other
    arguments, and ``mode="whole"``, are the host's.

    Raises:
        ValueError: a batch of less than one window, or a stride that is 0 or leaves pixels between windows.
    """

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        test_cfg = self.test_cfg or {}
        self.windows = test_cfg.get("batch", 4)
        if self.windows < 1:
            raise ValueError(f"test_cfg.batch={self.windows} is no number of windows; 1 takes one at a time")
        if test_cfg.get("mode") == "slide":
            crop, stride = test_cfg["crop_size"], test_cfg["stride"]
            if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
                raise ValueError(f"stride {tuple(stride)} is not between 1 and the windows' sides {tuple(crop)}")

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (n, classes, h, w) of images (n, 3, h, w)."""
        images, _, *size = inputs.shape
        rows, columns = (
            list(cut(length, crop, stride))
            for length, crop, stride in zip(size, self.test_cfg["crop_size"], self.test_cfg["stride"], strict=True)
        )
        places = list(itertools.product(rows, columns))
        logits = inputs.new_zeros(images, self.out_channels, *size)
        windows_here = inputs.new_zeros(size)
        for row, column in places:
            windows_here[row, column] += 1
        windows = list(itertools.product(range(images), places))
        for start in range(0, len(windows), self.windows):
            batch = windows[start : start + self.windows]
            crops = torch.cat([inputs[image : image + 1, :, row, column] for image, (row, column) in batch])
            # mmseg's heads resize their logits to the first one's shape.
            shape = dict(img_shape=crops.shape[2:], pad_shape=crops.shape[2:])
            found = self.encode_decode(crops, [{**batch_img_metas[image], **shape} for image, _ in batch])
            for (image, (row, column)), window in zip(batch, found, strict=True):
                logits[image, :, row, column] += window
        return logits.div_(windows_here)


def cut(length: int, crop: int, stride: int) -> Iterator[slice]:
    """Windows along one side of an image; the last one ends where the image ends."""
    for start in range(0, max(length - crop, 0) + stride, stride):
        end = min(start + crop, length)
        yield slice(max(end - crop, 0), end)
