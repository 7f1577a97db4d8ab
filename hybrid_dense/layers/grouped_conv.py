"""Grouped convolution whose narrow groups train quickly on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW_GROUP = 8
"""Channels of a group below which oneDNN's backward pass in bfloat16 is slow."""
MERGED_GROUP = 16
"""Channels that such groups have together: one vector of AVX-512."""


class GroupedConv2d(nn.Conv2d):
    """``nn.Conv2d`` that trains in bfloat16 on a CPU with neighbouring narrow groups as one.

    The gradient of the weights takes longer there for groups of 4 channels than for groups of 16, of which 12 are
    multiplied by zero (docs/performance.md). Everywhere else it is ``nn.Conv2d``; so are its values and parameters.
    """

    def forward(self, features: Tensor) -> Tensor:
        width = self.in_channels // self.groups
        merged = MERGED_GROUP // width if width < NARROW_GROUP else 1
        if merged == 1 or self.groups % merged or not trains_in_bfloat16(features):
            return super().forward(features)
        weight = merge_groups(self.weight, self.groups, merged)
        groups = self.groups // merged
        return F.conv2d(features, weight, self.bias, self.stride, self.padding, self.dilation, groups)


def trains_in_bfloat16(features: Tensor) -> bool:
    """Whether this is the forward pass of a training step on a CPU, in bfloat16."""
    if features.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return autocast or features.dtype == torch.bfloat16


def merge_groups(weight: Tensor, groups: int, merged: int) -> Tensor:
    """The weight (out, c, kh, kw) of ``groups`` groups to that of groups / merged: (out, merged · c, kh, kw)."""
    split = weight.unflatten(0, (groups // merged, merged, -1))
    own = torch.eye(merged, dtype=weight.dtype, device=weight.device).view(1, merged, 1, merged, 1, 1, 1)
    return (split.unsqueeze(3) * own).flatten(3, 4).flatten(0, 2)
