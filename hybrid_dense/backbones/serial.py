"""The CNN makes the ViT's tokens, and its last stage works on what the ViT made of them."""

from dataclasses import replace

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.archs import NUM_STAGES, FeatureSpec
from hybrid_dense.backbones.base import HybridBackbone, select
from hybrid_dense.layers.layout import contiguous_maps
from hybrid_dense.trunks import ViT


@MODELS.register_module()
class SerialResNeXtViT(HybridBackbone):
    """Stages 1 to 3, the ViT on C4's positions as its tokens, stage 4 on the result.

    The hybrid of the ViT paper (Dosovitskiy et al. 2021, section 3.1, "Hybrid Architecture"), with the way back into
    the CNN. ``vit.embed`` takes C4 instead of images, by a 1×1 projection; the ViT and C4 exchange after each of its
    four segments, and ``fusion_stages`` chooses among these. Arguments: ``Backbone``.
    """

    def build_vit(self, options: dict) -> ViT:
        return ViT(replace(self.vit_arch, patch=1), self.cnn.features[2].channels, **select(options, ViT))

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """As in every backbone, but for the projection of C4, which no trunk brings from its pretraining."""
        depth, layers = super().get_layer_depth(param_name, prefix)
        return (layers - 1 if param_name.startswith(f"{prefix}vit.patch_embed.") else depth), layers

    def fusion_streams(self) -> list[tuple[FeatureSpec, FeatureSpec]]:
        c4 = self.cnn.features[2]
        return [(c4, replace(self.vit.feature, stride=c4.stride))] * NUM_STAGES

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        stage1, stage2, stage3, stage4 = self.cnn.stages
        c2 = stage1(self.cnn.stem(self.prepare(images)))
        c3 = stage2(c2)
        c4 = stage3(c3)
        grid = self.vit.embed(c4)
        for segment, fuse in zip(self.vit.segments, self.fusions, strict=True):
            c4, grid = fuse(c4, segment(grid))
        return contiguous_maps([c2, c3, c4, stage4(c4)])
