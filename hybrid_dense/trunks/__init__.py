"""The two trunks as plain modules, with the state-dict names of torchvision (ResNeXt) and timm (ViT)."""

from hybrid_dense.trunks.resnext import ResNeXt
from hybrid_dense.trunks.vit import ViT

__all__ = ["ResNeXt", "ViT"]
