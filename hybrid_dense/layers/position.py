"""Position embeddings on a grid of any size."""

import torch.nn.functional as F
from torch import Tensor


def resample_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a position grid, (1, d, h, w) to (1, d, *size), bicubic with antialiasing as timm does."""
    if tuple(positions.shape[-2:]) == tuple(size):
        return positions
    resampled = F.interpolate(positions.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return resampled.to(positions.dtype)
