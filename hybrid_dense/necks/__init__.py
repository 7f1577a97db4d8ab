"""The registered necks, one file each: a backbone's maps in, the levels that a host head asks for out."""

from mmengine.registry import MODELS

from hybrid_dense.necks.base import Neck
from hybrid_dense.necks.deformable_encoder import DeformableEncoderNeck
from hybrid_dense.necks.hybrid_fpn import HybridFPN
from hybrid_dense.necks.simple_pyramid import SimplePyramid

__all__ = ["DeformableEncoderNeck", "HybridFPN", "Neck", "SimplePyramid", "list_necks"]


def list_necks() -> list[str]:
    """Names of all registered necks, those of other packages included."""
    registered = MODELS.module_dict.items()
    return sorted(name for name, neck in registered if isinstance(neck, type) and issubclass(neck, Neck))
