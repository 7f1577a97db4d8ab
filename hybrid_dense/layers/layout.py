"""The memory layout in which feature maps leave this package."""

import torch
from torch import Tensor


def contiguous_maps(maps: list[Tensor]) -> tuple[Tensor, ...]:
    """Lay feature maps (b, c, h, w) out channels first.

    mmcv's operators read the memory of a channels_last map as if it were channels first and return other values without
    an error (RoIAlign of 2.3.6 does), so nothing may leave for a host in that layout.
    """
    return tuple(features.contiguous(memory_format=torch.contiguous_format) for features in maps)
