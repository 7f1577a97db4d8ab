"""The plain Vision Transformer, whose image tokens stay a grid, so that it runs at any image size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.archs import NUM_STAGES, FeatureSpec, ViTArch
from hybrid_dense.layers.attention import GridAttention
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.drop_path import DropPath
from hybrid_dense.layers.mlp import MLPS
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.layers.position import Rotation, resample_positions, sine_positions
from hybrid_dense.layers.residual_conv import ResidualConv
from hybrid_dense.layers.scale import LayerScale

POSITIONS = ("learned", "sine", "rope", "none")
GLOBAL_ATTENTION = ("full", "pooled", "none")


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


class PreNormBlock(nn.Module):
    """Transformer block over h × w tokens and those before them: (b, p + h·w, d) to the same.

    ``x + attn(norm(x))``, then ``x + mlp(norm(x))`` (Dosovitskiy et al. 2021, equations 2 and 3).
    """

    def __init__(
        self,
        dim: int,
        attn: GridAttention,
        mlp: nn.Module,
        norm_eps: float,
        layer_scale: float | None,
        drop_path: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int], rotation: Rotation | None = None) -> Tensor:
        tokens = tokens + self.drop_path(self.ls1(self.attn(self.norm1(tokens), size, rotation)))
        return tokens + self.drop_path(self.ls2(self.mlp(self.norm2(tokens))))


class PostNormBlock(PreNormBlock):
    """``x + norm(attn(x))``, then ``x + norm(mlp(x))``: as in Swin V2 (Liu et al. 2022, section 3.2)."""

    def forward(self, tokens: Tensor, size: tuple[int, int], rotation: Rotation | None = None) -> Tensor:
        tokens = tokens + self.drop_path(self.ls1(self.norm1(self.attn(tokens, size, rotation))))
        return tokens + self.drop_path(self.ls2(self.norm2(self.mlp(tokens))))


BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock}


@dataclass
class Prefix:
    """The class and register tokens of one batch, (b, p, d), on their way from segment to segment."""

    tokens: Tensor | None = None


class ViT(nn.Module):
    """The transformer trunk (Dosovitskiy et al. 2021) in four segments.

    It takes images (b, 3, H, W) to a grid (b, d, ⌈H/16⌉, ⌈W/16⌉). Attention is local, in windows fitted to the grid,
    but for the last block of each segment, which is global (Li et al. 2022, ViTDet, section 3). Its parts can be called
    one by one: ``embed``, then each of ``segments``.

    Args:
        arch: the sizes.
        in_channels: channels of the images.
        window: largest window side in tokens; 0 makes every block global.
        global_attention: what the last block of each segment looks at: ``"full"`` the whole grid, ``"pooled"`` the grid
            averaged to at most 14 × 14 (cost linear in pixels), ``"none"`` its window like the others.
        attention: ``"sdpa"``; ``"explicit"``, the same with query, key, value and attention map open to forward hooks;
            ``"linear"``, global blocks without softmax, for very large images.
        positions: ``"learned"``, a table resampled to the grid; ``"sine"``, fixed; ``"rope"``, rotary; ``"none"``.
        class_token: keep a class token. It sees all tokens and is seen by all, in windows too.
        registers: number of register tokens (Darcet et al. 2024), treated alike.
        layer_scale: what the learned factors at the end of each residual branch start at; None has none.
        mlp: ``"gelu"`` or ``"swiglu"``.
        norm: ``"pre"`` normalises before attention and MLP, ``"post"`` after them, on the branch.
        norm_pre: normalise the tokens before the first block too, as CLIP does.
        norm_eps: ε of every LayerNorm.
        residual_conv: end each segment with a residual convolution (ViTDet's convolutional propagation).
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        native_size: side in tokens of the position table; any other grid resamples it.

    Raises:
        ValueError: a name that is none of the above, a depth that is no multiple of 4, heads that do not divide.
    """

    def __init__(
        self,
        arch: ViTArch,
        in_channels: int = 3,
        window: int = 14,
        global_attention: str = "full",
        attention: str = "sdpa",
        positions: str = "learned",
        class_token: bool = False,
        registers: int = 0,
        layer_scale: float | None = None,
        mlp: str = "gelu",
        norm: str = "pre",
        norm_pre: bool = False,
        norm_eps: float = 1e-6,
        residual_conv: bool = False,
        drop_path_rate: float = 0.0,
        native_size: int = 14,
    ):
        super().__init__()
        if arch.depth % NUM_STAGES:
            raise ValueError(f"vit depth {arch.depth} does not split into {NUM_STAGES} segments; use a multiple of 4")
        check_choice("global_attention", global_attention, GLOBAL_ATTENTION)
        check_choice("positions", positions, POSITIONS)
        check_choice("mlp", mlp, MLPS)
        check_choice("norm", norm, BLOCKS)
        for option, value, least in (
            ("window", window, 0),
            ("registers", registers, 0),
            ("native_size", native_size, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{option} {value!r} is not a whole number from {least} up")
        share = {"rope": arch.dim // arch.heads, "sine": arch.dim}.get(positions, 4)
        if share % 4:
            raise ValueError(f"positions {positions!r} need channels that divide by 4, not {share}; use 'learned'")
        self.feature = FeatureSpec(arch.dim, arch.patch)
        self.positions = positions
        self.native_size = native_size
        self.patch_embed = PatchEmbed(in_channels, arch.dim, arch.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, arch.dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.empty(1, registers, arch.dim)) if registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, native_size**2, arch.dim)) if positions == "learned" else None
        self.norm_pre = LayerNorm2d(arch.dim, eps=norm_eps) if norm_pre else nn.Identity()
        per_segment = arch.depth // NUM_STAGES
        drop_path = torch.linspace(0, drop_path_rate, arch.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList()
        for index in range(arch.depth):
            sees_all = (index + 1) % per_segment == 0 and global_attention != "none"
            attn = GridAttention(
                arch.dim, arch.heads, 0 if sees_all else window, attention, pooled=global_attention == "pooled"
            )
            feed_forward = MLPS[mlp](arch.dim, arch.mlp_ratio)
            self.blocks.append(BLOCKS[norm](arch.dim, attn, feed_forward, norm_eps, layer_scale, drop_path[index]))
        self.residuals = nn.ModuleList(ResidualConv(arch.dim) for _ in range(NUM_STAGES)) if residual_conv else None
        self.norm = LayerNorm2d(arch.dim, eps=norm_eps)
        self._init_weights()

    def _init_weights(self) -> None:
        for table in (self.pos_embed, self.cls_token, self.reg_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Patches plus positions: (b, 3, H, W) to (b, d, ⌈H/16⌉, ⌈W/16⌉)."""
        # Under autocast the patches come in half precision; the residual stream keeps that of the parameters.
        grid = self.patch_embed(images).to(self.norm.weight.dtype)
        size, side = grid.shape[-2:], self.native_size
        if self.pos_embed is not None:
            grid = grid + resample_positions(self.pos_embed.transpose(1, 2).unflatten(2, (side, side)), size)
        elif self.positions == "sine":
            grid = grid + sine_positions(self.feature.channels, tuple(size), side, grid.device).to(grid.dtype)
        return self.norm_pre(grid)

    @property
    def segments(self) -> tuple[partial, ...]:
        """Four runs of blocks, each (b, d, h, w) to (b, d, h, w); the last ends with the final norm.

        They are made anew on every access, for one batch: class and register tokens travel from one to the next behind
        the grid's back. Hooks belong on the blocks.
        """
        prefix = Prefix()
        return tuple(partial(self.run_segment, index, prefix) for index in range(NUM_STAGES))

    def segment_blocks(self, index: int) -> nn.ModuleList:
        """The blocks of segment 0, 1, 2 or 3."""
        per_segment = len(self.blocks) // NUM_STAGES
        return self.blocks[index * per_segment : (index + 1) * per_segment]

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of each part by its name, in the order of the forward pass."""
        segments = {f"segment {index + 1}": list(self.segment_blocks(index)) for index in range(NUM_STAGES)}
        if self.residuals is not None:
            for blocks, residual in zip(segments.values(), self.residuals, strict=True):
                blocks.append(residual)
        return {"embed": [self.patch_embed], **segments}

    @property
    def num_layers(self) -> int:
        """Layers in the sense of layer-wise decay: the embedding, the blocks, and what follows the trunk."""
        return len(self.blocks) + 2

    def get_layer_depth(self, param_name: str) -> int:
        """The layer of a parameter by its name in this trunk, the embedding being 0.

        As in ViTDet, the last norm and the residual convolutions lie at the top: they follow the blocks, or are new.
        """
        block = re.match(r"blocks\.(\d+)\.", param_name)
        if block:
            return int(block[1]) + 1
        return 0 if self.get_part(param_name) == "embed" else self.num_layers - 1

    def get_part(self, param_name: str) -> str:
        """``embed`` or ``segments.0`` to ``segments.3``: where a parameter belongs, by its name in this trunk."""
        kind, _, rest = param_name.partition(".")
        if kind == "blocks":
            return f"segments.{int(rest.split('.')[0]) * NUM_STAGES // len(self.blocks)}"
        if kind == "residuals":
            return f"segments.{rest.split('.')[0]}"
        return f"segments.{NUM_STAGES - 1}" if kind == "norm" else "embed"

    def run_segment(self, index: int, prefix: Prefix, grid: Tensor) -> Tensor:
        """Segment ``index`` over a grid of any size; ``prefix`` is read, and left as the segment's blocks made it."""
        size = tuple(grid.shape[-2:])
        before = self.first_prefix(grid) if prefix.tokens is None else prefix.tokens
        count, tokens = before.shape[1], grid.flatten(2).transpose(1, 2)
        if count:
            tokens = torch.cat((before, tokens), dim=1)
        heads = self.blocks[0].attn.heads
        rotation = (
            Rotation.of_grid(size, grid.shape[1] // heads, tokens.dtype, tokens.device)
            if self.positions == "rope"
            else None
        )
        for block in self.segment_blocks(index):
            tokens = block(tokens, size, rotation)
        if count:
            prefix.tokens, tokens = tokens[:, :count], tokens[:, count:]
        grid = tokens.transpose(1, 2).unflatten(2, size)
        if self.residuals is not None:
            grid = self.residuals[index](grid)
        return self.norm(grid) if index == NUM_STAGES - 1 else grid

    def first_prefix(self, grid: Tensor) -> Tensor:
        """Class and register tokens as they were learned, for a batch: (b, p, d)."""
        learned = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if not learned:
            return grid.new_empty(grid.shape[0], 0, grid.shape[1])
        tokens = torch.cat(learned, dim=1)
        if isinstance(self.norm_pre, nn.LayerNorm):
            tokens = F.layer_norm(
                tokens, tokens.shape[-1:], self.norm_pre.weight, self.norm_pre.bias, self.norm_pre.eps
            )
        return tokens.expand(grid.shape[0], -1, -1).to(grid.dtype)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.embed(images)
        for segment in self.segments:
            grid = segment(grid)
        return grid
