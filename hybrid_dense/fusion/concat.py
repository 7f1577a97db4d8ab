"""Both streams side by side, mixed by a small network at every position."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion, projection
from hybrid_dense.layers.norm import LayerNorm2d


class ConcatBridge(Bridge):
    """``target + W₂ · gelu(W₁ · [norm(target), norm(source)])``, as wide inside as the narrower stream.

    W₁ times two stacked vectors is the sum of its halves times each, so the source's half runs at the coarser stride
    and nothing is stacked in memory.
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        hidden = FeatureSpec(min(target.channels, source.channels), target.stride)
        self.norm = LayerNorm2d(target.channels, eps=1e-6)
        self.reduce = projection(target.channels, hidden.channels)
        self.carry = Carry(source, hidden, std=0.02)
        self.project = projection(hidden.channels, target.channels, std)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        hidden = self.reduce(self.norm(target)) + self.carry(source, target.shape[-2:])
        return target + self.project(F.gelu(hidden))


@MODELS.register_module()
class ConcatFusion(Fusion):
    """Concatenate and convolve 1×1, as TransFuse's BiFusion joins its features (Zhang et al. 2021, section 2).

    Cost: twice the target's channels times the inner width in multiply-adds for every position of the target, and once
    the source's channels times it at the coarser stride.
    """

    bridge = ConcatBridge
