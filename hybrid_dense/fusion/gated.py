"""Each stream decides, position by position and channel by channel, how much of the other one it takes."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion


class GatedBridge(Bridge):
    """``target + gate(target, message) ⊙ message``.

    A forward hook on ``gate`` reads its value, (b, c, h, w) in (0, 1).
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.carry = Carry(source, target, std)
        hidden = max(target.channels // 8, 8)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * target.channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, target.channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        message = self.carry(source, target.shape[-2:])
        return target + self.gate(torch.cat((target, message), dim=1)) * message


@MODELS.register_module()
class GatedFusion(Fusion):
    """A sigmoid gate per position and channel (as in gated multimodal units, Arevalo et al. 2017, section 3.1)."""

    bridge = GatedBridge
