"""Transformer blocks between the stages of a CNN, each at the resolution of its stage."""

from __future__ import annotations

import math

from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import NUM_STAGES, FeatureSpec
from hybrid_dense.backbones.base import HybridBackbone, into_cnn
from hybrid_dense.fusion.add import AddBridge
from hybrid_dense.layers.attention import GridAttention
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.layout import contiguous_maps
from hybrid_dense.layers.position import Rotation
from hybrid_dense.layers.resample import to_stride
from hybrid_dense.trunks import ResNeXt

ATTEND_IN = ("stages", "bottleneck")
# The entry of a stage's features into the tokens is no fusion and starts as any layer of the ViT.
ENTRY_STD = 0.02


@MODELS.register_module()
class InterleavedResNeXtViT(HybridBackbone):
    """A stage of convolutions, a run of transformer blocks on its map, and so on (CoAtNet, Dai et al. 2021).

    The grid is brought to the resolution of each stage, takes in its features, passes a segment of the ViT and is fused
    back. Stage 1 has 16 times the tokens of a plain ViT, so global blocks pool their keys unless ``global_attention``
    says otherwise.

    Args:
        attend_in: ``"stages"`` attends behind every stage; ``"bottleneck"`` behind the first three and inside the last,
            where attention replaces the 3×3 convolutions (BoTNet, Srinivas et al. 2021, section 3.1).
        fusion_stages: the stages with blocks behind them. Segments of the other stages run behind the next chosen one,
            and the last chosen one takes what is left.

    Others: ``Backbone``.
    """

    def build(self, rule: dict, stages: tuple[int, ...], options: dict) -> None:
        attend_in = options.get("attend_in", "stages")
        check_choice("attend_in", attend_in, ATTEND_IN)
        last = NUM_STAGES if attend_in == "stages" else NUM_STAGES - 1
        chosen = tuple(stage for stage in stages if stage <= last) or (last,)
        super().build(rule, chosen, dict(dict(global_attention="pooled"), **options))
        self.runs = plan_runs(chosen)
        self.entries = nn.ModuleList(
            AddBridge(grid, conv, ENTRY_STD) if run else nn.Identity()
            for run, (conv, grid) in zip(self.runs, self.fusion_streams(), strict=True)
        )

    def build_cnn(self, options: dict) -> ResNeXt:
        cnn = super().build_cnn(options)
        if options.get("attend_in") == "bottleneck":
            for block in cnn.stages[-1]:
                block.conv2 = AttentionInPlace(block.conv2, options.get("attention", "sdpa"))
            for module in cnn.frozen_modules():
                module.requires_grad_(False)
        return cnn

    def plan_fusions(self, rule: dict, stages: tuple[int, ...]) -> list[dict]:
        rules = {stage: rule for stage in stages}
        rules[stages[-1]] = into_cnn(rule)
        return [rules.get(stage, dict(type="IdentityFusion")) for stage in range(1, NUM_STAGES + 1)]

    def fusion_streams(self) -> list[tuple[FeatureSpec, FeatureSpec]]:
        return [(feature, FeatureSpec(self.vit.feature.channels, feature.stride)) for feature in self.cnn.features]

    def parts(self) -> dict[str, list[nn.Module]]:
        entries = {f"entry {number}": [entry] for number, entry in enumerate(self.entries, start=1)}
        return {**super().parts(), **entries}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = self.prepare(images)
        conv, grid = self.cnn.stem(images), self.vit.embed(images)
        segments, stride = self.vit.segments, self.vit.feature.stride
        pyramid = []
        for stage, run, enter, fuse, feature in zip(
            self.cnn.stages, self.runs, self.entries, self.fusions, self.cnn.features, strict=True
        ):
            conv = stage(conv)
            if run:
                grid = enter(to_stride(grid, stride, feature.stride, conv.shape[-2:]), conv)
                for index in run:
                    grid = segments[index](grid)
                conv, grid = fuse(conv, grid)
                stride = feature.stride
            pyramid.append(conv)
        return contiguous_maps(pyramid)


class AttentionInPlace(nn.Module):
    """Self-attention with rotary positions in place of a 3×3 convolution.

    (b, c, h, w) to (b, c, ⌈h/stride⌉, ⌈w/stride⌉). Heads have about 64 channels; a stride averages what was
    attended to.
    """

    def __init__(self, replaced: nn.Conv2d, attention: str):
        super().__init__()
        channels = replaced.in_channels
        self.stride = replaced.stride[0]
        self.attn = GridAttention(channels, heads=math.gcd(channels, max(channels // 64, 1)), attention=attention)

    def forward(self, features: Tensor) -> Tensor:
        size = tuple(features.shape[-2:])
        tokens = features.flatten(2).transpose(1, 2)
        rotation = Rotation.of_grid(size, features.shape[1] // self.attn.heads, features.dtype, features.device)
        attended = self.attn(tokens, size, rotation).transpose(1, 2).unflatten(2, size)
        return to_stride(attended, 1, self.stride, size)


def plan_runs(stages: tuple[int, ...]) -> list[range]:
    """Which of the ViT's segments run behind each stage: ``(3, 4)`` gives none, none, segments 0 to 2, segment 3."""
    runs, start = [], 0
    for stage in range(1, NUM_STAGES + 1):
        end = NUM_STAGES if stage == stages[-1] else stage if stage in stages else start
        runs.append(range(start, end))
        start = end
    return runs
