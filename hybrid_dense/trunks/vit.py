"""The plain Vision Transformer, kept as a grid of tokens from end to end so that it runs at any image size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.archs import NUM_STAGES, ViTArch
from hybrid_dense.layers.attention import GridAttention
from hybrid_dense.layers.drop_path import DropPath
from hybrid_dense.layers.mlp import MLP
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.layers.position import resample_positions


class PatchEmbed(nn.Module):
    """Cut images into patches, (b, 3, H, W) to (b, d, ⌈H/patch⌉, ⌈W/patch⌉); what a last patch lacks is zero."""

    def __init__(self, in_channels: int, dim: int, patch: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        missing_h, missing_w = -images.shape[-2] % self.patch, -images.shape[-1] % self.patch
        if missing_h or missing_w:
            images = F.pad(images, (0, missing_w, 0, missing_h))
        return self.proj(images)


class ViTBlock(nn.Module):
    """Pre-norm transformer block on a grid, (b, d, h, w) to (b, d, h, w).

    Inside, channels come last; on a channels_last grid the two permutations are views and cost nothing.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int, window: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GridAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, grid: Tensor) -> Tensor:
        tokens = grid.permute(0, 2, 3, 1)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.permute(0, 3, 1, 2)


class ViT(nn.Module):
    """The transformer trunk (Dosovitskiy et al. 2021) in four segments.

    It takes images (b, 3, H, W) to a grid (b, d, ⌈H/16⌉, ⌈W/16⌉). Attention is local, in windows fitted to the grid,
    but for the last block of each segment, which is global (Li et al. 2022, ViTDet, section 3). Its parts can be called
    one by one: ``embed``, then each of ``segments``.

    Args:
        arch: the sizes.
        in_channels: channels of the images.
        window: largest window side in tokens; 0 makes every block global.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        native_size: side in tokens of the learned position grid; any other grid resamples it.
    """

    def __init__(
        self,
        arch: ViTArch,
        in_channels: int = 3,
        window: int = 14,
        drop_path_rate: float = 0.0,
        native_size: int = 14,
    ):
        super().__init__()
        if arch.depth % NUM_STAGES:
            raise ValueError(f"vit depth {arch.depth} does not split into {NUM_STAGES} segments; use a multiple of 4")
        self.native_size = native_size
        self.patch_embed = PatchEmbed(in_channels, arch.dim, arch.patch)
        self.pos_embed = nn.Parameter(torch.empty(1, native_size**2, arch.dim))
        per_segment = arch.depth // NUM_STAGES
        drop_path = torch.linspace(0, drop_path_rate, arch.depth, device="cpu").tolist()
        self.blocks = nn.Sequential(
            *(
                ViTBlock(
                    arch.dim,
                    arch.heads,
                    arch.mlp_ratio,
                    window=0 if (index + 1) % per_segment == 0 else window,
                    drop_path=drop_path[index],
                )
                for index in range(arch.depth)
            )
        )
        self.norm = LayerNorm2d(arch.dim, eps=1e-6)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Patches plus positions: (b, 3, H, W) to (b, d, ⌈H/16⌉, ⌈W/16⌉)."""
        grid = self.patch_embed(images)
        side = self.native_size
        positions = self.pos_embed.transpose(1, 2).reshape(1, -1, side, side)
        return grid + resample_positions(positions, grid.shape[-2:])

    @property
    def segments(self) -> tuple[nn.Module, ...]:
        """Four runs of blocks, each (b, d, h, w) to (b, d, h, w); the last ends with the final norm.

        They are made anew from ``blocks`` on every access, so that a wrapped or replaced block is used at once; hooks
        belong on the blocks.
        """
        per_segment = len(self.blocks) // NUM_STAGES
        runs = [self.blocks[start : start + per_segment] for start in range(0, len(self.blocks), per_segment)]
        return (*runs[:-1], nn.Sequential(*runs[-1], self.norm))

    def forward(self, images: Tensor) -> Tensor:
        grid = self.embed(images)
        for segment in self.segments:
            grid = segment(grid)
        return grid
