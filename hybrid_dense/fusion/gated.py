"""Each stream decides, position by position and channel by channel, how much of the other one it takes."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion
from hybrid_dense.layers.pointwise import PointwiseConv2d
from hybrid_dense.layers.resample import to_stride


class Gate(nn.Module):
    """Two streams (b, c, h, w) to one gate (b, c, h, w) in (0, 1).

    Convolving two stacked streams is convolving each and adding, so nothing is stacked in memory.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = min(max(channels // 8, 8), 64)
        self.target = PointwiseConv2d(channels, hidden)
        self.message = PointwiseConv2d(channels, hidden, bias=False)
        self.expand = PointwiseConv2d(hidden, channels)

    def forward(self, target: Tensor, message: Tensor) -> Tensor:
        return self.expand(F.relu(self.target(target) + self.message(message))).sigmoid()


class GatedBridge(Bridge):
    """``target + gate(target, message) ⊙ message``, gated at the coarser of the two strides and then spread.

    A forward hook on ``gate`` reads its value, (b, c, h, w) at the coarser stride, in (0, 1).
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.strides = target.stride, max(source.stride, target.stride)
        self.carry = Carry(source, target, std)
        self.gate = Gate(target.channels)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        size = target.shape[-2:]
        message = self.carry.gather(source, size)
        gate = self.gate(to_stride(target, *self.strides, size), message)
        return target + self.carry.spread(gate * message, size)


@MODELS.register_module()
class GatedFusion(Fusion):
    """A sigmoid gate per position and channel (as in gated multimodal units, Arevalo et al. 2017, section 3.1)."""

    bridge = GatedBridge
