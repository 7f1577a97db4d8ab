"""1×1 convolution that runs at the speed of a matrix product on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE_WEIGHT = 2**17
"""Entries from which oneDNN's convolutions in bfloat16 are slower than its products."""


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of kernel 1, (b, in_channels, h, w) to (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉).

    In bfloat16 on a CPU oneDNN rearranges large weights for every convolution, which takes as long as multiplying small
    maps by them (docs/performance.md). There it is a product of positions and weights; values and parameters stay.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = True):
        super().__init__(in_channels, out_channels, 1, stride, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        if self.weight.numel() < LARGE_WEIGHT or features.dim() != 4 or not is_bfloat16_on_cpu(features):
            return super().forward(features)
        if self.stride != (1, 1):
            features = features[..., :: self.stride[0], :: self.stride[1]]
        positions = features.permute(0, 2, 3, 1)
        # As a matrix: a product of four axes and a matrix would copy the matrix for every image.
        rows = F.linear(positions.flatten(0, 2), self.weight.permute(0, 2, 3, 1).flatten(0, 2), self.bias)
        return rows.unflatten(0, positions.shape[:3]).permute(0, 3, 1, 2)


def is_bfloat16_on_cpu(features: Tensor) -> bool:
    """Whether a convolution of these maps computes in bfloat16 on a CPU, by autocast or because they are."""
    if features.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return features.dtype == torch.bfloat16
