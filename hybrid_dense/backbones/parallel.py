"""Both trunks see the image and exchange after every stage."""

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.backbones.base import HybridBackbone
from hybrid_dense.layers.layout import contiguous_maps


@MODELS.register_module()
class ParallelResNeXtViT(HybridBackbone):
    """Two streams side by side (Conformer, Peng et al. 2021; ViT-CoMer, Xia et al. 2024). Arguments: ``Backbone``."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = self.prepare(images)
        conv, grid = self.cnn.stem(images), self.vit.embed(images)
        pyramid = []
        for stage, segment, fuse in zip(self.cnn.stages, self.vit.segments, self.fusions, strict=True):
            conv, grid = fuse(stage(conv), segment(grid))
            pyramid.append(conv)
        return contiguous_maps(pyramid)
