"""The plainest exchange: each stream adds what the other one sees."""

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.fusion.base import Bridge, Fusion


class AddBridge(Bridge):
    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        return target + self.carry(source, target.shape[-2:])


@MODELS.register_module()
class AddFusion(Fusion):
    """``target + W · norm(source)``: the feature coupling unit of Conformer (Peng et al. 2021, section 3.2)."""

    bridge = AddBridge
