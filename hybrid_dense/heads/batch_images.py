"""Small images from the data loader to the model: augmented, normalised and enlarged, a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class BatchImages(BaseDataPreprocessor):
    """Make a batch of uint8 images of one size, (b, 3, h, w), what a backbone of strides 4 to 32 can work on.

    In training each image is shifted and mirrored by random numbers of its own; doing this to the whole batch costs a
    hundredth of doing it image by image.

    Args:
        mean, std: of each channel, in the images' unit (0 to 255).
        sizes: side in pixels to which the images are enlarged. With several, a training goes through them in stretches
            of equal length, small images first, which cost least while least is known (Tan and Le 2021, section 4);
            the last one holds for its end and for every test.
        shift: pixels that an image moves at most, each way, mirrored at its edges.

    Raises:
        ValueError: sizes that there cannot be.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], sizes: Sequence[int], shift: int = 4):
        super().__init__()
        if not sizes or min(sizes) < 32:
            raise ValueError(f"sizes {list(sizes)} are none; give one or more of at least 32 pixels")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.sizes = tuple(sizes)
        self.shift = shift

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        images = data["inputs"]
        if training:
            images = shift_and_mirror(images, self.shift)
        images = (images.float() - self.mean) / self.std
        side = self.sizes[int(progress() * len(self.sizes))] if training else self.sizes[-1]
        return dict(data, inputs=F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False))


def progress() -> float:
    """The share of the training that lies behind, below 1, as mmengine's runner tells it; outside a training its end.

    So what is only rehearsed, such as a batch that has to fit into memory, has the size that costs most.
    """
    hub = MessageHub.get_current_instance()
    total = hub.get_info("max_iters", 0)
    return min(hub.get_info("iter", 0) / total if total else 1, 1 - 1e-9)


def shift_and_mirror(images: Tensor, most: int) -> Tensor:
    """Move every image of (b, c, h, w) by up to ``most`` pixels each way and mirror half of them."""
    batch, _, height, width = images.shape
    padded = F.pad(images.float(), (most,) * 4, mode="reflect").to(images.dtype)
    rows, columns = (
        torch.randint(2 * most + 1, (batch, 1), device=images.device) + torch.arange(side, device=images.device)
        for side in (height, width)
    )
    columns = torch.where(torch.rand(batch, 1, device=images.device) < 0.5, columns, columns.flip(1))
    image = torch.arange(batch, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
