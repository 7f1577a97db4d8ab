"""A feature pyramid: top-down, then bottom-up if asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.layers.choices import check_choice
from hybrid_dense.necks.base import Neck, levels_from
from hybrid_dense.necks.merges import MERGES


@MODELS.register_module()
class HybridFPN(Neck):
    """FPN (Lin et al. 2017, section 3): each level takes the coarser one, enlarged, and a 3×3 convolution smooths it.

    Args:
        bottom_up: add PANet's second path (Liu et al. 2018, section 3.1), which carries fine detail back to the coarse
            levels in few steps.
        merge: how a level takes its neighbour, on both paths: ``"add"``, or ``"gate"``, which weighs every position of
            both by what they are (GFF, Li et al. 2020).
        **options: those of ``Neck``.
    """

    def __init__(self, in_channels: Sequence[int], bottom_up: bool = False, merge: str = "add", **options):
        super().__init__(in_channels, **options)
        check_choice("merge", merge, MERGES)
        channels, width = levels_from(self.in_channels, self.start_level), self.out_channels
        steps = range(len(channels) - 1)
        strides = self.strides[self.start_level :]

        def conv3x3(stride: int = 1) -> nn.Sequential:
            return self.make_conv(width, width, 3, stride)

        self.laterals = nn.ModuleList(self.make_conv(source, width, 1) for source in channels)
        self.outputs = nn.ModuleList(conv3x3() for _ in channels)
        self.downs = nn.ModuleList(conv3x3(strides[step + 1] // strides[step]) for step in steps if bottom_up)
        self.refines = nn.ModuleList(conv3x3() for _ in steps if bottom_up)
        self.top_down_merges = nn.ModuleList(MERGES[merge](width) for _ in steps)
        self.bottom_up_merges = nn.ModuleList(MERGES[merge](width) for _ in steps if bottom_up)
        self.extras = self.make_extras(channels)

    def merge(self, levels: Sequence[Tensor]) -> list[Tensor]:
        self.check_sizes(levels, self.strides[self.start_level :])
        pyramid = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for fine in reversed(range(len(pyramid) - 1)):
            coarse = F.interpolate(pyramid[fine + 1], size=pyramid[fine].shape[-2:], mode="nearest")
            pyramid[fine] = self.top_down_merges[fine](pyramid[fine], coarse)
        pyramid = [output(level) for output, level in zip(self.outputs, pyramid, strict=True)]
        return self.carry_up(pyramid) if self.downs else pyramid

    def carry_up(self, pyramid: list[Tensor]) -> list[Tensor]:
        for fine, (down, refine) in enumerate(zip(self.downs, self.refines, strict=True)):
            height, width = pyramid[fine + 1].shape[-2:]
            detail = down(pyramid[fine])[..., :height, :width]
            pyramid[fine + 1] = refine(self.bottom_up_merges[fine](pyramid[fine + 1], detail))
        return pyramid
