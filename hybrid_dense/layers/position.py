"""Where a token is: learned tables, sines and rotations, on a grid of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_dense.layers.kept import kept


def resample_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a position grid, (1, d, h, w) to (1, d, *size), bicubic with antialiasing as timm does."""
    if tuple(positions.shape[-2:]) == tuple(size):
        return positions
    source = positions.float()
    if source.is_cuda and torch.are_deterministic_algorithms_enabled():
        source = source.cpu()  # CUDA's gradient of it is not deterministic, and torch refuses it; the table is small
    resampled = F.interpolate(source, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resampled.to(positions)


@kept
def sine_positions(dim: int, size: tuple[int, int], native_size: float, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D sines (1, d, *size): the first half of the channels tells the column, the second the row.

    The formula is that of Vaswani et al. 2017, section 3.5, on two axes as in MAE (He et al. 2022, appendix A.1). A
    grid of another size spans the same range of positions as the native one. ``dim`` divides by 4.
    """
    frequencies = 1 / 10000 ** (torch.arange(dim // 4, device=device) / (dim // 4))
    rows, columns = ((torch.arange(side, device=device) * (native_size / side)).outer(frequencies) for side in size)
    rows, columns = (torch.cat((angles.sin(), angles.cos()), dim=1).T for angles in (rows, columns))
    height, width = size
    columns = columns.unsqueeze(1).expand(-1, height, -1)
    return torch.cat((columns, rows.unsqueeze(2).expand(-1, -1, width))).unsqueeze(0)


@dataclass(frozen=True)
class Rotation:
    """Rotary positions of a grid: ``cosine`` and ``sine`` are (h, w, 1, channels of a head)."""

    cosine: Tensor
    sine: Tensor

    @staticmethod
    @kept
    def of_grid(
        size: tuple[int, int],
        channels: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
        base: float = 100.0,
    ) -> Rotation:
        """2-D RoPE as DINOv3 defines it (Siméoni et al. 2025, section 3.2).

        A token's position is its centre with every axis running from -1 to 1 over the grid; a quarter of the channels
        turns with the row and a quarter with the column, in pairs half the head apart. ``channels`` divides by 4.
        """
        frequencies = 2 * math.pi / base ** (torch.arange(channels // 4, device=device) / (channels // 4))
        height, width = size
        rows, columns = (
            ((torch.arange(side, device=device) + 0.5) * (2 / side) - 1).outer(frequencies) for side in size
        )
        rows, columns = rows.unsqueeze(1).expand(-1, width, -1), columns.unsqueeze(0).expand(height, -1, -1)
        angles = torch.cat((rows, columns, rows, columns), dim=-1).unsqueeze(2)
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))

    def turn(self, heads: Tensor) -> Tensor:
        """Rotate queries or keys (b, h, w, heads, channels) by their token's position."""
        first, second = heads.chunk(2, dim=-1)
        turned = heads * self.cosine + torch.cat((-second, first), dim=-1) * self.sine
        return turned.to(heads.dtype)
