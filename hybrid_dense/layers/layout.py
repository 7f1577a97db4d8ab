"""The memory layout in which feature maps leave this package."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ChannelsFirst(torch.autograd.Function):
    """Lay a channels_last map out channels first, and its gradient channels_last again.

    The gradient would come back channels first, and BatchNorm is many times slower where it meets both layouts.
    """

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        return features.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


def contiguous_maps(maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Lay feature maps (b, c, h, w) out channels first.

    mmcv's operators read the memory of a channels_last map as if it were channels first and return other values without
    an error (RoIAlign of 2.3.6 does), so nothing may leave for a host in that layout.
    """
    return tuple(features if features.is_contiguous() else ChannelsFirst.apply(features) for features in maps)
