"""The convolutions that necks are made of: two tables, what a 3×3 convolution is and what follows it."""

from __future__ import annotations

import math

from torch import nn

from hybrid_dense.layers.norm import LayerNorm2d


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, kind: str = "full", norm: str | None = None
) -> nn.Sequential:
    """(b, in_channels, h, w) to (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉): a convolution and what follows it.

    Args:
        in_channels, out_channels, kernel, stride: as in ``nn.Conv2d``; an odd kernel.
        kind: a key of ``CONVS``; a 1×1 convolution is always full.
        norm: a key of ``NORMS``.
    """
    layers = CONVS[kind if kernel > 1 else "full"](in_channels, out_channels, kernel, stride, norm is None)
    return nn.Sequential(*layers, *NORMS[norm](out_channels))


def full(in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    nn.init.xavier_uniform_(conv.weight)
    if bias:
        nn.init.zeros_(conv.bias)
    return [conv]


def depthwise(in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool) -> list[nn.Module]:
    """Every channel for itself, then 1×1 across them; nothing in between (Chollet 2017, Xception, section 1.2)."""
    conv = nn.Conv2d(in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False)
    # Xavier's rule takes the other groups' channels for outputs of this one, and would start far too small.
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return [conv, *full(in_channels, out_channels, 1, 1, bias)]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or as many of at least two channels as there can be: one cell of one channel has no variance."""
    return nn.GroupNorm(math.gcd(64, channels) // 2 or 1, channels)


CONVS = {"full": full, "depthwise": depthwise}
NORMS = {
    None: lambda channels: [],
    "BN": lambda channels: [nn.BatchNorm2d(channels)],
    "GN": lambda channels: [group_norm(channels)],
    "LN": lambda channels: [LayerNorm2d(channels, eps=1e-6)],
}
