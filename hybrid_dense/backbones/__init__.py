"""The registered backbones, one topology a file."""

from mmengine.registry import MODELS

from hybrid_dense.backbones.base import HybridBackbone
from hybrid_dense.backbones.parallel import ParallelResNeXtViT

__all__ = ["HybridBackbone", "ParallelResNeXtViT", "list_topologies"]


def list_topologies() -> list[str]:
    """Names of all registered hybrid backbones, those of other packages included."""
    registered = MODELS.module_dict.items()
    return sorted(
        name for name, backbone in registered if isinstance(backbone, type) and issubclass(backbone, HybridBackbone)
    )
