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
        if _copies_slowly(features):
            batch, channels, height, width = features.shape
            rows = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
            return _turn(rows).view(batch, channels, height, width)
        return features.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        if _copies_slowly(gradient) and not gradient.is_contiguous(memory_format=torch.channels_last):
            batch, channels, height, width = gradient.shape
            turned = _turn(gradient.contiguous().view(batch, channels, height * width))
            return turned.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return gradient.contiguous(memory_format=torch.channels_last)


def _copies_slowly(features: Tensor) -> bool:
    # Where a graph is recorded, the loop over the images would become part of it.
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return features.device.type == "cpu" and not recorded


def _turn(matrices: Tensor) -> Tensor:
    """(b, rows, columns) to (b, columns, rows), contiguous.

    torch turns one matrix block by block, and a batch of them element by element.
    """
    turned = matrices.new_empty(matrices.shape[0], matrices.shape[2], matrices.shape[1])
    for target, matrix in zip(turned, matrices, strict=True):
        target.copy_(matrix.t())
    return turned


def contiguous_maps(maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Lay feature maps (b, c, h, w) out channels first.

    mmcv's operators read the memory of a channels_last map as if it were channels first and return other values without
    an error (RoIAlign of 2.3.6 does), so nothing may leave for a host in that layout.
    """
    return tuple(features if features.is_contiguous() else ChannelsFirst.apply(features) for features in maps)
