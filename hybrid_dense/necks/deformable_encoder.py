"""Every cell of a pyramid looks at a few places of all its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.deformable import DeformableAttention, cell_centres, tokens
from hybrid_dense.layers.position import sine_positions
from hybrid_dense.layers.recompute import recompute
from hybrid_dense.necks.base import Neck, levels_from


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward, each followed by a LayerNorm of the sum.

    (Zhu et al. 2021, Deformable DETR, section 4.1.) Tokens (b, Σ h·w, dim) to the same.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int, mlp_ratio: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels, points)
        self.value, self.project = linear(dim, dim), linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            linear(dim, mlp_ratio * dim), nn.ReLU(), nn.Dropout(dropout), linear(mlp_ratio * dim, dim)
        )

    def forward(
        self, tokens: Tensor, positions: Tensor, shapes: Sequence[tuple[int, int]], reference: Tensor
    ) -> Tensor:
        answer = self.attention(tokens + positions, self.value(tokens), shapes, reference)
        tokens = self.norm1(tokens + self.dropout(self.project(answer)))
        return self.norm2(tokens + self.dropout(self.feed_forward(tokens)))


def linear(in_channels: int, out_channels: int) -> nn.Linear:
    layer = nn.Linear(in_channels, out_channels)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@MODELS.register_module()
class DeformableEncoderNeck(Neck):
    """The encoder of Deformable DETR (Zhu et al. 2021, section 4.1), as Mask2Former's pixel decoder has it (Cheng et
    al. 2022, section 4.1).

    The coarsest ``attention_levels`` are projected, told their place (sines, and a learned vector a level) and
    run through the encoder. The finer ones, whose cells would be most of the tokens, take its answer as in an FPN:
    projected, the coarser level added, bilinearly enlarged, a 3×3 convolution and a ReLU. mmcv's compiled operator does
    the sampling where it was built for the device.

    Args:
        attention_levels: how many of the levels, counted from the coarsest, take part in the attention.
        num_layers, heads, points: layers of the encoder, their heads, and samples a head takes of each level.
        mlp_ratio: hidden channels of a feed-forward by ``out_channels``.
        dropout: behind the attention, in and behind the feed-forward (Mask2Former 0, Deformable DETR 0.1).
        with_cp: activation checkpointing of the layers.
        norm, **options: those of ``Neck``; ``out_channels`` divides by 4 and by ``heads``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        attention_levels: int = 3,
        num_layers: int = 6,
        heads: int = 8,
        points: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        with_cp: bool = False,
        norm: str | None = "GN",
        **options,
    ):
        super().__init__(in_channels, norm=norm, **options)
        channels, dim = levels_from(self.in_channels, self.start_level), self.out_channels
        check_choice("attention_levels", attention_levels, range(1, len(channels) + 1))
        if dim % heads or dim % 4:
            raise ValueError(f"out_channels {dim} is not a multiple of 4 and of {heads} heads; set neck.heads")
        self.fine_levels = len(channels) - attention_levels
        self.projections = nn.ModuleList(self.make_conv(source, dim, 1) for source in channels)
        self.level_embedding = nn.Parameter(torch.randn(attention_levels, dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, heads, attention_levels, points, mlp_ratio, dropout) for _ in range(num_layers)
        )
        self.outputs = nn.ModuleList(
            nn.Sequential(*self.make_conv(dim, dim, 3), nn.ReLU()) for _ in range(self.fine_levels)
        )
        self.extras = self.make_extras(channels)
        for layer in self.layers if with_cp else ():
            recompute(layer)

    def merge(self, levels: Sequence[Tensor]) -> list[Tensor]:
        strides = self.strides[self.start_level :]
        self.check_sizes(levels, strides)
        pyramid = [project(level) for project, level in zip(self.projections, levels, strict=True)]
        pyramid[self.fine_levels :] = self.encode(pyramid[self.fine_levels :], strides[self.fine_levels :])
        for fine in reversed(range(self.fine_levels)):
            factor, size = strides[fine + 1] // strides[fine], pyramid[fine].shape[-2:]
            pyramid[fine] = self.outputs[fine](pyramid[fine] + enlarge(pyramid[fine + 1], factor, size))
        return pyramid

    def encode(self, maps: list[Tensor], strides: Sequence[int]) -> list[Tensor]:
        """Maps (b, c, h, w) of these strides to the same, each having seen all."""
        shapes = [tuple(level.shape[-2:]) for level in maps]
        device = maps[0].device
        reference = torch.cat(
            [cell_centres(size, stride, shapes, strides, device) for size, stride in zip(shapes, strides, strict=True)]
        )
        positions = torch.cat(
            [
                tokens(sine_positions(self.out_channels, size, 2 * math.pi, device)) + embedding
                for size, embedding in zip(shapes, self.level_embedding, strict=True)
            ],
            dim=1,
        )
        cells = torch.cat([tokens(level) for level in maps], dim=1)
        for layer in self.layers:
            cells = layer(cells, positions.to(cells.dtype), shapes, reference)
        levels = cells.split([height * width for height, width in shapes], dim=1)
        return [level.unflatten(1, size).permute(0, 3, 1, 2) for level, size in zip(levels, shapes, strict=True)]


def enlarge(features: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Bilinear, by exactly this factor; what lies beyond ``size`` is cut off, and a missing edge repeats the last."""
    features = F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
    features = features[..., : size[0], : size[1]]
    missing = size[0] - features.shape[-2], size[1] - features.shape[-1]
    return F.pad(features, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else features
