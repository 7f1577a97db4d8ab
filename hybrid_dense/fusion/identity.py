"""No exchange at all: what a stage does that takes no part in the fusion."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Fusion


class IdentityBridge(Bridge):
    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        nn.Module.__init__(self)  # nothing is carried across

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        return target


@MODELS.register_module()
class IdentityFusion(Fusion):
    """Both streams pass as they are; it has no parameters."""

    bridge = IdentityBridge
