"""Each position of one stream looks through the other one's window around it."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.base import Fusion
from hybrid_dense.fusion.query import HEAD_CHANNELS, QueryBridge
from hybrid_dense.layers.attention import FusedSoftmax
from hybrid_dense.layers.pointwise import PointwiseConv2d
from hybrid_dense.layers.windows import WindowPlan

WINDOW = 14


class CrossAttentionBridge(QueryBridge):
    """``answer = softmax(q kᵀ / √32) v + depthwise(v)``, q from the target, k and v from the source.

    Both streams are cut by one plan, so a query and its keys are of the same part of the image. Where in the window a
    key lies, attention alone cannot tell: the depthwise 3×3 convolution hands each position its own neighbourhood of
    the source and leaves the search for the rest to attention. It needs no bias the size of the attention matrix and
    holds for any window.
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__(target, source, std)
        # Biases would be idle: softmax does not see one on the keys, the norms and the last projection have the others.
        self.query = PointwiseConv2d(target.channels, self.width, bias=False)
        self.key = PointwiseConv2d(source.channels, self.width, bias=False)
        self.value = PointwiseConv2d(source.channels, self.width, bias=False)
        self.attend = FusedSoftmax()
        self.neighbourhood = nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width, bias=False)

    def answer(self, query: Tensor, source: Tensor) -> Tensor:
        batch, _, height, width = query.shape
        plan = WindowPlan.fit(height, width, WINDOW)
        value = self.value(source)
        heads = [self.split(stream, plan) for stream in (self.query(query), self.key(source), value)]
        attended = plan.merge_heads(self.attend(*heads, plan.mask(batch, query.device)))
        return attended.permute(0, 3, 1, 2) + self.neighbourhood(value)

    def split(self, stream: Tensor, plan: WindowPlan) -> Tensor:
        """(b, width, h, w) to (b · windows, heads, window tokens, 32)."""
        return plan.split_heads(stream.permute(0, 2, 3, 1), self.heads, HEAD_CHANNELS)[0]


@MODELS.register_module()
class CrossAttentionFusion(Fusion):
    """Attention from one stream to the other (Vaswani et al. 2017, section 3.2.3) in windows (Liu et al. 2021, Swin,
    section 3.2), with positions on the values (locally-enhanced positional encoding of CSWin, Dong et al. 2022).

    Cost, at the coarser of the two strides: the projections, and at most 2 · 14² · min(C, d) multiply-adds for every
    position, C and d being the two streams' channels; linear in the image's pixels.
    """

    bridge = CrossAttentionBridge
