"""The ViT looks first, and what it saw guides every stage of the CNN."""

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.backbones.base import HybridBackbone
from hybrid_dense.layers.layout import contiguous_maps


@MODELS.register_module()
class GuidedResNeXtViT(HybridBackbone):
    """The whole ViT on the image, then the CNN, whose every stage takes from the finished grid.

    The other way round than the usual adapter, in which convolutions feed a ViT (ViT-Adapter, Chen et al. 2023): here
    the ViT is the feature extractor and the CNN makes the pyramid. With ``direction="both"`` the grid carries what one
    stage added on to the next. Arguments: ``Backbone``.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = self.prepare(images)
        grid, conv = self.vit(images), self.cnn.stem(images)
        pyramid = []
        for stage, fuse in zip(self.cnn.stages, self.fusions, strict=True):
            conv, grid = fuse(stage(conv), grid)
            pyramid.append(conv)
        return contiguous_maps(pyramid)
