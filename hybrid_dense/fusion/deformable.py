"""Each position of one stream samples the other one at a few places that it chooses itself."""

import torch
from mmengine.registry import MODELS
from torch import Tensor

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Fusion, projection
from hybrid_dense.fusion.query import QueryBridge
from hybrid_dense.layers.deformable import DeformableAttention, cell_centres, tokens
from hybrid_dense.layers.resample import to_stride

SCALES = (1, 2, 4)
POINTS = 4


class DeformableBridge(QueryBridge):
    """``answer = Σ weight · v(position + offset)`` over 3 scales and 4 points in every head.

    v is the source's projection at the coarser stride, and that averaged over 2×2 and 4×4 cells; offsets and weights
    come from the target.
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.value = projection(source.channels, self.width)
        self.attention = DeformableAttention(target.channels, self.heads, len(SCALES), POINTS)

    def answer(self, query: Tensor, source: Tensor) -> Tensor:
        size = query.shape[-2:]
        value = self.value(source)
        levels = [to_stride(value, 1, scale, size) for scale in SCALES]
        shapes = [tuple(level.shape[-2:]) for level in levels]
        reference = cell_centres(size, 1, shapes, SCALES, query.device)
        cells = torch.cat([tokens(level) for level in levels], dim=1)
        answer = self.attention(tokens(query), cells, shapes, reference)
        return answer.unflatten(1, size).permute(0, 3, 1, 2)


@MODELS.register_module()
class DeformableFusion(Fusion):
    """Multi-scale deformable attention from one stream to the other (Zhu et al. 2021, Deformable DETR, section 4.1), as
    ViT-Adapter's injector and extractor use it (Chen et al. 2023, section 3.3).

    Cost, at the coarser of the two strides: the projections and 12 bilinear samples for every position and channel,
    however large the image is. mmcv's compiled operator does the sampling where it was built for the device.
    """

    bridge = DeformableBridge
