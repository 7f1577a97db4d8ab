"""What both streams hold on average decides which channels of either count."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion, projection
from hybrid_dense.layers.norm import LayerNorm2d

REDUCTION = 16


class ChannelAttentionBridge(Bridge):
    """``2 · sigmoid(W_t · z) ⊙ target + sigmoid(W_m · z) ⊙ message``, z the joint squeeze of both streams.

    W_t starts with ``std`` as the message does: where that is zero, 2 · sigmoid(0) is exactly one.
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        hidden = max((target.channels + source.channels) // REDUCTION, 8)
        self.carry = Carry(source, target, std)
        self.squeeze_target = squeeze(target.channels, hidden)
        self.squeeze_source = squeeze(source.channels, hidden)
        self.excite_target = projection(hidden, target.channels, std)
        self.excite_message = projection(hidden, target.channels)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        target_mean, source_mean = (stream.mean(dim=(2, 3), keepdim=True) for stream in (target, source))
        joint = F.relu(self.squeeze_target(target_mean) + self.squeeze_source(source_mean))
        message = self.carry(source, target.shape[-2:])
        return 2 * self.excite_target(joint).sigmoid() * target + self.excite_message(joint).sigmoid() * message


def squeeze(channels: int, hidden: int) -> nn.Sequential:
    """(b, channels, 1, 1) means to (b, hidden, 1, 1): normalised, since the two streams differ in scale."""
    return nn.Sequential(LayerNorm2d(channels, eps=1e-6), projection(channels, hidden))


@MODELS.register_module()
class ChannelAttentionFusion(Fusion):
    """Squeeze and excitation (Hu et al. 2018, section 3), with one squeeze of both streams (MMTM, Joze et al. 2020,
    section 3).

    Cost: that of ``AddFusion``, one mean over both streams and one scaling of the target.
    """

    bridge = ChannelAttentionBridge
