"""Both trunks see the image and exchange after every stage."""

from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.archs import NUM_STAGES
from hybrid_dense.backbones.base import HybridBackbone
from hybrid_dense.layers.layout import contiguous_maps


@MODELS.register_module()
class ParallelResNeXtViT(HybridBackbone):
    """Two streams side by side (Conformer, Peng et al. 2021; ViT-CoMer, Xia et al. 2024).

    Arguments: ``HybridBackbone``. The last exchange always carries the ViT into the CNN, since only the CNN's maps
    leave: with the rule if stage 4 is among ``fusion_stages``, else by plain addition. So every part of both trunks is
    trained, whatever was chosen.
    """

    def plan_fusions(self, rule: dict, stages: tuple[int, ...]) -> list[dict]:
        rules = [rule if stage in stages else dict(type="IdentityFusion") for stage in range(1, NUM_STAGES + 1)]
        last = rules[-1] if rules[-1]["type"] != "IdentityFusion" else dict(type="AddFusion")
        return [*rules[:-1], dict(last, direction="to_cnn")]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = self.prepare(images)
        conv, grid = self.cnn.stem(images), self.vit.embed(images)
        pyramid = []
        for stage, segment, fuse in zip(self.cnn.stages, self.vit.segments, self.fusions, strict=True):
            conv, grid = fuse(stage(conv), segment(grid))
            pyramid.append(conv)
        return contiguous_maps(pyramid)
