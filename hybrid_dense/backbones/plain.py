"""The two halves alone: the baselines that a hybrid has to beat. They read the same variants and options."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.backbones.base import Backbone
from hybrid_dense.layers.layout import contiguous_maps
from hybrid_dense.layers.pyramid import GridPyramid


@MODELS.register_module()
class PlainResNeXt(Backbone):
    """The CNN of the variant, C2..C5. Arguments: ``Backbone``; those of the ViT and of the fusion do nothing."""

    def build(self, rule: dict, stages: tuple[int, ...], options: dict) -> None:
        self.cnn = self.build_cnn(options)
        self.out_channels = tuple(feature.channels for feature in self.cnn.features)
        self.strides = tuple(feature.stride for feature in self.cnn.features)

    def parts(self) -> dict[str, list[nn.Module]]:
        return self.cnn.parts()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return contiguous_maps(self.cnn(self.prepare(images)))


@MODELS.register_module()
class PlainViT(Backbone):
    """The ViT of the variant and a simple pyramid over its grid (ViTDet, Li et al. 2022): d/4, d/2, d and d channels.

    Arguments: ``Backbone``; those of the CNN and of the fusion do nothing.
    """

    def build(self, rule: dict, stages: tuple[int, ...], options: dict) -> None:
        self.vit = self.build_vit(options)
        self.pyramid = GridPyramid(self.vit.feature.channels)
        self.out_channels = tuple(feature.channels for feature in self.pyramid.features)
        self.strides = tuple(feature.stride for feature in self.pyramid.features)

    def parts(self) -> dict[str, list[nn.Module]]:
        levels = {f"level {number}": [level] for number, level in enumerate(self.pyramid.levels, start=1)}
        return {**self.vit.parts(), **levels}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = self.prepare(images)
        return contiguous_maps(self.pyramid(self.vit(images), images.shape[-2:]))
