"""The registered backbones, one topology a file."""

from mmengine.registry import MODELS

from hybrid_dense.backbones.base import Backbone, HybridBackbone
from hybrid_dense.backbones.guided import GuidedResNeXtViT
from hybrid_dense.backbones.interleaved import InterleavedResNeXtViT
from hybrid_dense.backbones.parallel import ParallelResNeXtViT
from hybrid_dense.backbones.plain import PlainResNeXt, PlainViT
from hybrid_dense.backbones.serial import SerialResNeXtViT

__all__ = [
    "Backbone",
    "GuidedResNeXtViT",
    "HybridBackbone",
    "InterleavedResNeXtViT",
    "ParallelResNeXtViT",
    "PlainResNeXt",
    "PlainViT",
    "SerialResNeXtViT",
    "list_topologies",
]


def list_topologies() -> list[str]:
    """Names of all registered hybrid backbones, those of other packages included."""
    registered = MODELS.module_dict.items()
    return sorted(
        name for name, backbone in registered if isinstance(backbone, type) and issubclass(backbone, HybridBackbone)
    )
