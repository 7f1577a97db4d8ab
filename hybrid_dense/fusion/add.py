"""The plainest exchange: each stream adds what the other one sees."""

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, Carry, Fusion


class AddBridge(Bridge):
    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.carry = Carry(source, target, std)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        return target + self.carry(source, target.shape[-2:])


@MODELS.register_module()
class AddFusion(Fusion):
    """``target + W · norm(source)``: the feature coupling unit of Conformer (Peng et al. 2021, section 3.2)."""

    bridge = AddBridge
