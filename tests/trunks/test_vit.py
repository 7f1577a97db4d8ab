"""The ViT trunk against attention written out by hand, and its state-dict names against timm's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.archs import VIT_ARCHS, ViTArch
from hybrid_dense.layers.attention import GridAttention
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.trunks import ViT
from hybrid_dense.trunks.vit import PatchEmbed, ViTBlock

PICO = VIT_ARCHS["pico"]


def naive_attention(attention, tokens):
    """(t, d) to (t, d): one softmax a head and a query, nothing batched."""
    dim, heads = tokens.shape[-1], attention.heads
    size = dim // heads
    query, key, value = attention.qkv(tokens).split(dim, dim=-1)
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        mixed.append(scores.softmax(dim=-1) @ value[:, part])
    return attention.proj(torch.cat(mixed, dim=-1))


def naive_windows(attention, grid, window):
    """Attention inside each ``window`` (h, w) of the grid; windows at its edges hold what tokens there are."""
    mixed = torch.empty_like(grid)
    batch, height, width, dim = grid.shape
    for image in range(batch):
        for top in range(0, height, window[0]):
            for left in range(0, width, window[1]):
                part = image, slice(top, top + window[0]), slice(left, left + window[1])
                tokens = grid[part]
                mixed[part] = naive_attention(attention, tokens.reshape(-1, dim)).reshape(tokens.shape)
    return mixed


def build_attention(window):
    torch.manual_seed(0)
    attention = GridAttention(24, heads=3, window=window).eval()
    with torch.no_grad():
        attention.qkv.weight.mul_(4)  # sharp softmaxes: an even one would hide a wrong key
    return attention


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 7), (5, 2)])
@torch.no_grad()
def test_global_attention_is_a_softmax_over_all_tokens(size):
    attention = build_attention(window=0)
    grid = torch.randn(2, *size, 24)
    expected = torch.stack([naive_attention(attention, image.reshape(-1, 24)).reshape(*size, 24) for image in grid])
    assert_close(attention(grid), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((8, 8), (4, 4)),  # fits
        ((3, 4), (3, 4)),  # smaller than a window
        ((7, 4), (4, 4)),  # rows padded
        ((8, 5), (4, 3)),  # columns padded, windows oblong
        ((7, 11), (4, 4)),  # both padded
        ((9, 10), (3, 4)),  # three windows of 3; three of 4 for 10
    ],
)
@torch.no_grad()
def test_windowed_attention_is_a_softmax_in_each_window(size, window):
    attention = build_attention(window=4)
    grid = torch.randn(2, *size, 24)
    assert_close(attention(grid), naive_windows(attention, grid, window), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_is_never_looked_at(monkeypatch):
    attention = build_attention(window=4)
    grid = torch.randn(2, 7, 11, 24)
    expected = attention(grid)
    pad = F.pad
    padded = []

    def pad_with_noise(tensor, amounts):
        if tensor.dtype == torch.bool:
            return pad(tensor, amounts)
        padded.append(amounts)
        return pad(tensor, amounts, value=1e4)

    monkeypatch.setattr(F, "pad", pad_with_noise)
    assert_close(attention(grid), expected, rtol=1e-5, atol=1e-5)
    assert padded


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match=r"5 attention heads do not divide 24 channels; use a multiple of 5"):
        GridAttention(24, heads=5)


@torch.no_grad()
def test_patches_that_lack_pixels_are_padded_with_zero():
    torch.manual_seed(0)
    embed = PatchEmbed(3, 8, patch=16)
    images = torch.randn(2, 3, 33, 60)
    grid = embed(images)
    assert grid.shape == (2, 8, 3, 4)
    assert_close(grid, embed(F.pad(images, (0, 4, 0, 15))))
    assert_close(grid[:, :, :2, :3], embed(images[:, :, :32, :48]))


@torch.no_grad()
def test_block_is_pre_norm_with_two_residuals():
    torch.manual_seed(0)
    block = ViTBlock(24, heads=3, mlp_ratio=4, window=0, drop_path=0.0).eval()
    grid = torch.randn(2, 24, 3, 5)
    tokens = grid.permute(0, 2, 3, 1)
    tokens = tokens + block.attn(F.layer_norm(tokens, (24,), block.norm1.weight, block.norm1.bias, 1e-6))
    hidden = F.layer_norm(tokens, (24,), block.norm2.weight, block.norm2.bias, 1e-6)
    tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(hidden)))
    assert_close(block(grid), tokens.permute(0, 3, 1, 2))


def timm_names(depth):
    """Keys of timm's VisionTransformer without class token and classifier."""
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    named = ["patch_embed.proj", "norm", *(f"blocks.{block}.{layer}" for block in range(depth) for layer in layers)]
    return {"pos_embed"} | {f"{name}.{kind}" for name in named for kind in ("weight", "bias")}


@pytest.mark.parametrize("name", VIT_ARCHS)
def test_timm_names(name):
    arch = VIT_ARCHS[name]
    with torch.device("meta"):
        state = ViT(arch).state_dict()
    assert set(state) == timm_names(arch.depth)
    assert state["pos_embed"].shape == (1, 14 * 14, arch.dim)
    assert state["patch_embed.proj.weight"].shape == (arch.dim, 3, 16, 16)
    assert state["blocks.0.attn.qkv.weight"].shape == (3 * arch.dim, arch.dim)
    assert state["blocks.0.mlp.fc1.weight"].shape == (4 * arch.dim, arch.dim)


# timm's vit_*_patch16_224 without the 1000-way classifier, the class token and the position of that token.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ti", 5_717_416 - 193_000 - 2 * 192),
        ("s", 22_050_664 - 385_000 - 2 * 384),
        ("b", 86_567_656 - 769_000 - 2 * 768),
        ("l", 304_326_632 - 1_025_000 - 2 * 1024),
    ],
)
def test_parameter_count(name, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ViT(VIT_ARCHS[name]).parameters()) == parameters


@pytest.mark.parametrize(("depth", "global_blocks"), [(4, [0, 1, 2, 3]), (12, [2, 5, 8, 11]), (24, [5, 11, 17, 23])])
def test_which_blocks_attend_globally(depth, global_blocks):
    with torch.device("meta"):
        trunk = ViT(ViTArch(dim=24, depth=depth, heads=3), window=7)
    windows = [block.attn.window for block in trunk.blocks]
    assert [index for index, window in enumerate(windows) if window == 0] == global_blocks
    assert set(windows) <= {0, 7}


def test_window_zero_makes_every_block_global():
    with torch.device("meta"):
        trunk = ViT(ViTArch(dim=24, depth=8, heads=3), window=0)
    assert {block.attn.window for block in trunk.blocks} == {0}


@torch.no_grad()
def test_local_blocks_see_their_window_and_a_segment_sees_all():
    torch.manual_seed(0)
    trunk = ViT(ViTArch(dim=24, depth=8, heads=3), window=4).eval()
    grid = torch.randn(1, 24, 8, 8)
    other = grid.clone()
    other[..., 7, 7] = torch.randn(1, 24)

    def reached(part):
        return (part(grid) - part(other)).abs().amax(dim=(0, 1)) > 0

    local = reached(trunk.blocks[0])
    assert local[4:, 4:].all()
    assert not local[:4].any()
    assert not local[:, :4].any()
    assert reached(trunk.segments[0]).all()


def test_depth_that_does_not_split_into_segments():
    with pytest.raises(ValueError, match=r"vit depth 10 does not split into 4 segments; use a multiple of 4"):
        ViT(ViTArch(dim=24, depth=10, heads=3))


def test_segments_are_all_blocks_in_order_and_the_last_ends_with_the_norm():
    with torch.device("meta"):
        trunk = ViT(VIT_ARCHS["ti"])
    parts = [part for segment in trunk.segments for part in segment]
    assert [len(segment) for segment in trunk.segments] == [3, 3, 3, 4]
    assert all(part is block for part, block in zip(parts, trunk.blocks, strict=False))
    assert parts[-1] is trunk.norm
    assert isinstance(trunk.norm, LayerNorm2d)


@torch.no_grad()
def test_forward_is_embed_then_segments_and_ends_normalised():
    torch.manual_seed(0)
    trunk = ViT(PICO).eval()
    images = torch.randn(2, 3, 50, 70)
    grid = trunk(images)
    assert grid.shape == (2, 96, 4, 5)
    assert_close(grid.mean(dim=1), torch.zeros(2, 4, 5), atol=1e-5, rtol=0)
    assert_close(grid.std(dim=1, unbiased=False), torch.ones(2, 4, 5), atol=1e-2, rtol=0)
    step = trunk.embed(images)
    for segment in trunk.segments:
        step = segment(step)
    assert torch.equal(step, grid)


@torch.no_grad()
def test_positions_as_learned_at_the_native_size_and_row_by_row():
    torch.manual_seed(0)
    trunk = ViT(PICO)
    images = torch.zeros(1, 3, 224, 224)
    trunk.patch_embed.proj.bias.zero_()
    grid = trunk.embed(images)
    for row, column in [(0, 0), (0, 13), (13, 0), (5, 9)]:
        assert torch.equal(grid[0, :, row, column], trunk.pos_embed[0, 14 * row + column])


@torch.no_grad()
def test_positions_are_resampled_to_the_grid():
    torch.manual_seed(0)
    trunk = ViT(PICO)
    trunk.patch_embed.proj.bias.zero_()
    # Positions that are a ramp from left to right stay one on a grid of another size.
    trunk.pos_embed.copy_(torch.linspace(0, 1, 14).repeat(14)[None, :, None].expand(1, -1, 96))
    grid = trunk.embed(torch.zeros(1, 3, 160, 330))[0, 0]
    assert grid.shape == (10, 21)
    assert (grid.diff(dim=1) > 0).all()
    assert_close(grid, grid[:1].expand(10, -1))
    assert_close(grid[:, 10], torch.full((10,), 0.5))


def test_drop_path_rises_linearly():
    with torch.device("meta"):
        trunk = ViT(VIT_ARCHS["ti"], drop_path_rate=0.22)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx([0.02 * block for block in range(12)])
