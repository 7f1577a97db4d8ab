"""Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, section 4.1).

A query looks at a few points of each level of a pyramid, at places and with weights that it chooses itself. Sampling is
plain PyTorch; mmcv's compiled operator takes over where it was built for the tensors' device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.layers.kept import kept

# Where mmcv 2.3.6 has kernels: it registers none for a CPU, and none that takes bfloat16.
OPERATOR_DEVICES = ("cuda",)
OPERATOR_DTYPES = (torch.float32, torch.float64)


class DeformableAttention(nn.Module):
    """Each query weighs ``points`` samples of every level in every head.

    It chooses where to look and what that counts; projecting the values before and the answer afterwards is the
    caller's part.

    Args:
        dim: channels of a query.
        heads: attention heads; the values' channels must divide by it.
        levels: levels that are sampled.
        points: samples a head takes of one level.

    Heads start on a ring around the reference point, each in its own direction, point k at k cells' distance (the
    initialisation of the paper's appendix A.4), and weigh all points alike.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        nn.init.zeros_(self.offsets.weight)
        # The paper starts these at zero, too; then the query would see no gradient before the third step of a fusion
        # that itself starts at zero.
        nn.init.normal_(self.weights.weight, std=1e-3)
        nn.init.zeros_(self.weights.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring(heads, points).unsqueeze(1).expand(-1, levels, -1, -1).flatten())

    def forward(self, query: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]], reference: Tensor) -> Tensor:
        """(b, n, dim) queries and (b, Σ h·w, c) values to (b, n, c) answers.

        Args:
            query: (b, n, dim).
            value: (b, Σ h·w, c), the levels' cells one after the other, row by row.
            shapes: (h, w) of each level.
            reference: (n, levels, 2) or (b, n, levels, 2), each query's (x, y) on each level in [0, 1]; see
                ``cell_centres``.

        Raises:
            ValueError: the heads do not divide the values' channels, or the shapes do not fit the values.
        """
        batch, length, channels = value.shape
        if channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {channels} channels; use a multiple of {self.heads}")
        if len(shapes) != self.levels:
            raise ValueError(f"{len(shapes)} level shapes for attention over {self.levels} levels")
        split = *query.shape[:2], self.heads, self.levels, self.points
        weights = self.weights(query).reshape(*split[:3], -1).softmax(dim=-1).reshape(split)
        offsets = self.offsets(query).reshape(*split, 2)
        # Eight bits of bfloat16 place nothing on a map of more than 256 cells.
        columns, rows = offsets.to(torch.promote_types(offsets.dtype, reference.dtype)).unbind(dim=-1)
        # Divided level by level, since a tensor of the sizes would have to be copied to the device in every forward.
        steps = [
            torch.stack((columns[..., level, :] / width, rows[..., level, :] / height), dim=-1)
            for level, (height, width) in enumerate(shapes)
        ]
        locations = reference.unsqueeze(-3).unsqueeze(-2) + torch.stack(steps, dim=3)
        return deformable_attention(value.reshape(batch, length, self.heads, -1), shapes, locations, weights)


def tokens(features: Tensor) -> Tensor:
    """(b, c, h, w) to (b, h·w, c), row by row; a view of a channels_last map."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def ring(heads: int, points: int) -> Tensor:
    """Offsets in cells, (heads, points, 2): head i looks into direction i, point k lies on the square of radius k."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    return directions.unsqueeze(1) * torch.arange(1, points + 1).unsqueeze(-1)


def cell_centres(
    size: tuple[int, int],
    stride: float,
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    device: torch.device | None = None,
) -> Tensor:
    """Where the cells of one map of an image lie on other maps of it: (h·w, levels, 2), (x, y) in [0, 1].

    It goes by strides, not by sizes, since ⌈H/s⌉ cells may reach beyond the image's edge, and further on one map than
    on another.

    Args:
        size: (h, w) of the map whose cells ask.
        stride: its stride.
        shapes, strides: (h, w) and stride of each level that they look at.
        device: where the answer is needed.
    """
    rows, columns = (torch.arange(side, device=device) + 0.5 for side in size)
    levels = []
    for (height, width), level_stride in zip(shapes, strides, strict=True):
        scale = stride / level_stride
        y, x = torch.meshgrid(rows * scale / height, columns * scale / width, indexing="ij")
        levels.append(torch.stack((x, y), dim=-1).flatten(0, 1))
    return torch.stack(levels, dim=1)


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples: (b, n, heads · c) in the values' type.

    Args:
        value: (b, Σ h·w, heads, c), the levels' cells one after the other, row by row.
        shapes: (h, w) of each level.
        locations: (b, n, heads, levels, points, 2), (x, y) in [0, 1] from edge to edge of a level; a cell's centre is
            at (index + 0.5) / side, and whatever lies outside counts as zero. Sampling runs in this tensor's type.
        weights: (b, n, heads, levels, points), used as they are.

    Raises:
        ValueError: the shapes' cells are not those of the values.
    """
    cells = sum(height * width for height, width in shapes)
    if cells != value.shape[1]:
        raise ValueError(f"levels of shapes {list(shapes)} have {cells} cells, the values {value.shape[1]}")
    operands = value.to(locations.dtype), locations, weights.to(locations.dtype)
    operator = operator_for(operands[0])
    sampled = sample(*operands, shapes) if operator is None else call_operator(operator, *operands, shapes)
    return sampled.to(value.dtype)


def sample(value: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """``deformable_attention`` in plain PyTorch, all operands of one type."""
    batch, _, heads, channels = value.shape
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)
    answer = None
    levels = value.split([height * width for height, width in shapes], dim=1)
    for index, (level, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples = F.grid_sample(maps, grids[:, :, index], mode="bilinear", padding_mode="zeros", align_corners=False)
        weighed = (samples * weights[:, :, :, index]).sum(dim=-1)
        answer = weighed if answer is None else answer + weighed
    return answer.reshape(batch, heads * channels, -1).transpose(1, 2)


def operator_for(value: Tensor) -> Callable | None:
    """The compiled operator where it can take this tensor; a graph that is being traced has no place for it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if value.device.type not in OPERATOR_DEVICES or value.dtype not in OPERATOR_DTYPES:
        return None
    return load_operator()


@cache
def load_operator() -> Callable | None:
    """mmcv's operator, or None where mmcv, its operators or their CUDA half was not built."""
    try:
        from mmcv.ops import get_compiling_cuda_version
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except ImportError:
        return None
    return None if get_compiling_cuda_version() == "not available" else MultiScaleDeformableAttnFunction.apply


def call_operator(
    operator: Callable, value: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """``deformable_attention`` by mmcv's operator, which reads contiguous memory only."""
    sizes, starts = level_table(tuple(shapes), value.device)
    # It works through the batch in steps, which must divide it: one step.
    return operator(value.contiguous(), sizes, starts, locations.contiguous(), weights.contiguous(), value.shape[0])


@kept
def level_table(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(levels, 2) sizes and (levels,) first cells on the device; kept, since copying them there makes the host wait."""
    sizes = torch.tensor(shapes, device=device)
    areas = sizes.prod(dim=1)
    return sizes, areas.cumsum(dim=0) - areas
