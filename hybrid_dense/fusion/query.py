"""What the attending rules share: positions of the target ask the source."""

from abc import abstractmethod

from torch import Tensor

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Bridge, projection
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.layers.resample import to_stride

HEAD_CHANNELS = 32


class QueryBridge(Bridge):
    """``target + W · answer(norm(target), norm(source))``, asked at the coarser of the two strides.

    Its answers are ``heads`` heads of 32 channels wide, as many as the narrower of the two streams has room for.
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        self.strides = source.stride, max(source.stride, target.stride), target.stride
        self.heads = max(min(target.channels, source.channels) // HEAD_CHANNELS, 1)
        self.width = self.heads * HEAD_CHANNELS
        self.norm_target = LayerNorm2d(target.channels, eps=1e-6)
        self.norm_source = LayerNorm2d(source.channels, eps=1e-6)
        self.project = projection(self.width, target.channels, std)

    @abstractmethod
    def answer(self, query: Tensor, source: Tensor) -> Tensor:
        """(b, target channels, h, w) and (b, source channels, h, w), of one stride, to (b, width, h, w)."""

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        source_stride, coarse, target_stride = self.strides
        size = target.shape[-2:]
        query = self.norm_target(to_stride(target, target_stride, coarse, size))
        answer = self.answer(query, self.norm_source(to_stride(source, source_stride, coarse, size)))
        return target + to_stride(self.project(answer), coarse, target_stride, size)
