"""A feature pyramid: top-down, then bottom-up if asked, then extra coarse levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.layers.layout import contiguous_maps


@MODELS.register_module()
class HybridFPN(BaseModule):
    """C2..C5 to P2..P(num_outs+1) of ``out_channels`` each.

    FPN: Lin et al. 2017; bottom-up path: PANet, Liu et al. 2018. Map i+1 is half of map i, rounded up; any image size
    works.

    Args:
        in_channels: channels of each input level, fine to coarse; the backbone's ``out_channels``.
        out_channels: channels of every output level.
        num_outs: number of output levels; those beyond the inputs are made from the coarsest.
        bottom_up: add PANet's second path, which carries fine detail back up in few steps.
        extra_levels: ``"pool"`` takes every second pixel (the RPN's P6), ``"conv"`` learns 3×3 convolutions
            (RetinaNet's).
        norm: normalise every convolution's output: ``None``, ``"BN"`` or ``"GN"`` (32 groups).

    Raises:
        ValueError: fewer outputs than inputs, unknown options, or maps that do not have ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        bottom_up: bool = False,
        extra_levels: str = "pool",
        norm: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if num_outs < len(in_channels):
            raise ValueError(f"num_outs {num_outs} is less than the {len(in_channels)} input levels")
        if extra_levels not in ("pool", "conv"):
            raise ValueError(f"extra_levels {extra_levels!r} is not 'pool' or 'conv'")
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is not one of {', '.join(map(repr, NORMS))}")
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        levels = range(len(self.in_channels))
        extra = range(num_outs - len(self.in_channels))

        def conv(source: int, kernel: int, stride: int = 1) -> nn.Sequential:
            return conv_norm(source, out_channels, kernel, stride, norm)

        self.laterals = nn.ModuleList(conv(channels, 1) for channels in self.in_channels)
        self.outputs = nn.ModuleList(conv(out_channels, 3) for _ in levels)
        self.downs = nn.ModuleList(conv(out_channels, 3, stride=2) for _ in levels[1:] if bottom_up)
        self.refines = nn.ModuleList(conv(out_channels, 3) for _ in levels[1:] if bottom_up)
        pool = nn.MaxPool2d(1, stride=2)
        self.extras = nn.ModuleList(conv(out_channels, 3, stride=2) if extra_levels == "conv" else pool for _ in extra)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.check(features)
        pyramid = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for fine in reversed(range(len(pyramid) - 1)):
            size = pyramid[fine].shape[-2:]
            pyramid[fine] = pyramid[fine] + F.interpolate(pyramid[fine + 1], size=size, mode="nearest")
        pyramid = [output(level) for output, level in zip(self.outputs, pyramid, strict=True)]
        for fine, (down, refine) in enumerate(zip(self.downs, self.refines, strict=True)):
            pyramid[fine + 1] = refine(pyramid[fine + 1] + down(pyramid[fine]))
        for extra in self.extras:
            pyramid.append(extra(pyramid[-1]))
        return contiguous_maps(pyramid)

    def check(self, features: Sequence[Tensor]) -> None:
        found = tuple(feature.shape[1] for feature in features)
        if found != self.in_channels:
            levels = ", ".join(f"C{level + 2}: {channels}" for level, channels in enumerate(found))
            raise ValueError(f"HybridFPN was built for in_channels {list(self.in_channels)} but gets {levels}")


NORMS = {None: None, "BN": nn.BatchNorm2d, "GN": lambda channels: nn.GroupNorm(32, channels)}


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int, norm: str | None) -> nn.Sequential:
    layers = [nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm is None)]
    nn.init.xavier_uniform_(layers[0].weight)
    if norm is None:
        nn.init.zeros_(layers[0].bias)
    else:
        layers.append(NORMS[norm](out_channels))
    return nn.Sequential(*layers)
