"""Weights that fit another image: position tables, patch kernels and input channels, brought to another size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_dense.layers.position import resample_positions

INPUT_KERNELS = ("conv1.weight", "conv1.0.weight", "patch_embed.proj.weight")


def resize(name: str, weight: Tensor, shape: torch.Size) -> Tensor | None:
    """``weight`` in another shape where there is a method for it, else None."""
    if name == "pos_embed":
        weight = resize_positions(weight, shape)
    elif name in INPUT_KERNELS and reads_images(weight.shape, shape):
        weight = resize_channels(weight, shape[1])
        if name.startswith("patch_embed"):
            weight = resize_patch(weight, tuple(shape[-2:]))
    return weight if weight is not None and weight.shape == shape else None


def reads_images(old: torch.Size, new: torch.Size) -> bool:
    """Whether both kernels (d, c, h, w) are for images: one of a single pixel, or of many channels, reads features."""
    return len(old) == 4 and min(*old[2:], *new[2:]) > 1 and old[1] in (3, new[1])


def resize_positions(table: Tensor, shape: torch.Size) -> Tensor | None:
    """A position table (1, s², d) to (1, t², d), bicubic with antialiasing; None where it is no square grid of d."""
    if table.dim() != 3 or table.shape[::2] != shape[::2]:
        return None
    old, new = math.isqrt(table.shape[1]), math.isqrt(shape[1])
    if old**2 != table.shape[1]:
        return None
    grid = table.float().transpose(1, 2).unflatten(2, (old, old))
    return resample_positions(grid, (new, new)).flatten(2).transpose(1, 2)


def resize_patch(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """A patch kernel (d, c, h, w) to (d, c, *size), so that an enlarged patch gets the response that it had before.

    If B enlarges a patch (bicubic, antialiased), the new kernel is pinv(Bᵀ) · kernel: exact for larger patches, the
    least squares for smaller ones (FlexiViT, Beyer et al. 2023, section 3.4).
    """
    old = tuple(kernel.shape[-2:])
    if old == size:
        return kernel
    pixels = torch.eye(old[0] * old[1], dtype=torch.float64, device=kernel.device).reshape(-1, 1, *old)
    enlarged = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    # Row i is the i-th pixel enlarged: this is Bᵀ.
    inverse = torch.linalg.pinv(enlarged.flatten(1))
    return (kernel.double().flatten(2) @ inverse.T).reshape(*kernel.shape[:2], *size).float()


def resize_channels(kernel: Tensor, channels: int) -> Tensor:
    """Input channels of a kernel (d, c, h, w): summed for one (a grey image gets the response of its RGB), else
    repeated in turn and scaled by c / channels, as timm does."""
    given = kernel.shape[1]
    if given == channels:
        return kernel
    if channels == 1:
        return kernel.float().sum(1, keepdim=True)
    repeated = kernel.float().repeat(1, math.ceil(channels / given), 1, 1)
    return repeated[:, :channels] * (given / channels)
