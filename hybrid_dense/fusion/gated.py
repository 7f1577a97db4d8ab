"""Each stream decides, position by position and channel by channel, how much of the other one it takes."""

from collections.abc import Callable

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion
from hybrid_dense.layers.pointwise import PointwiseConv2d


class Gate(nn.Module):
    """Two streams to one gate (b, c, h, w) in (0, 1); the message may still be coarser, and ``spread`` brings it there.

    Convolving two stacked streams is convolving each and adding, so nothing is stacked in memory; and a 1×1 convolution
    of what is spread is the spread of what was convolved, with fewer channels to spread.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = min(max(channels // 8, 8), 64)
        self.target = PointwiseConv2d(channels, hidden)
        self.message = PointwiseConv2d(channels, hidden, bias=False)
        self.expand = PointwiseConv2d(hidden, channels)

    def forward(self, target: Tensor, message: Tensor, spread: Callable[[Tensor, tuple[int, int]], Tensor]) -> Tensor:
        hidden = self.target(target) + spread(self.message(message), target.shape[-2:])
        return self.expand(F.relu(hidden)).sigmoid()


class GatedBridge(Bridge):
    """``target + gate(target, message) ⊙ message``.

    A forward hook on ``gate`` reads its value, (b, c, h, w) in (0, 1).
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.carry = Carry(source, target, std)
        self.gate = Gate(target.channels)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        size = target.shape[-2:]
        message = self.carry.gather(source, size)
        gate = self.gate(target, message, self.carry.spread)
        # addcmul would multiply both gradients by its factor of one.
        return target + gate * self.carry.spread(message, size)


@MODELS.register_module()
class GatedFusion(Fusion):
    """A sigmoid gate per position and channel (as in gated multimodal units, Arevalo et al. 2017, section 3.1)."""

    bridge = GatedBridge
