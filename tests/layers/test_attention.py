"""GridAttention against attention written out token by token, in all its forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from hybrid_dense.layers import attention as attention_module
from hybrid_dense.layers.attention import (
    AttendInChunks,
    ExplicitSoftmax,
    FusedSoftmax,
    GridAttention,
    LinearAttention,
    attend_by_products,
    pool_grid,
)
from hybrid_dense.layers.position import Rotation

DIM, HEADS = 24, 3
FLOAT32 = dict(rtol=1e-5, atol=2e-5)
"""The angles of a rotation are float32 numbers whatever the tokens are."""


def build_attention(dtype=torch.float64, **options):
    torch.manual_seed(0)
    attention = GridAttention(DIM, HEADS, **options).to(dtype).eval()
    with torch.no_grad():
        attention.qkv.weight.mul_(4)  # sharp softmaxes: an even one would hide a wrong key
        attention.qkv.bias.normal_()  # a key of zero is then no longer the key of a zero token
    return attention


def random_tokens(prefix, size, batch=2, dtype=torch.float64):
    return torch.randn(batch, prefix + size[0] * size[1], DIM, dtype=dtype, generator=torch.Generator().manual_seed(1))


def turned(vector, row, column, size):
    """One head's channels of the token at (row, column), as equations: pairs half a head apart turn by an angle."""
    channels = len(vector)
    half, quarter = channels // 2, channels // 4
    result = vector.clone()
    for pair in range(half):
        on_rows = pair < quarter
        place, side = (row, size[0]) if on_rows else (column, size[1])
        angle = 2 * math.pi * (2 * (place + 0.5) / side - 1) / 100 ** (pair % quarter / quarter)
        first, second = vector[pair], vector[pair + half]
        result[pair] = first * math.cos(angle) - second * math.sin(angle)
        result[pair + half] = second * math.cos(angle) + first * math.sin(angle)
    return result


def softmax_weights(query, keys):
    return (keys @ query / math.sqrt(len(query))).softmax(dim=0)


def linear_weights(query, keys):
    scores = torch.stack([(F.elu(query) + 1) @ (F.elu(key) + 1) for key in keys])
    return scores / scores.sum()


def written_out(attention, tokens, size, window=None, rope=False, pool=None, weights=softmax_weights):
    """(b, p + h·w, d) to the same, a loop over images, queries and heads.

    Args:
        window: (h, w) of the windows, or None; whoever comes before the grid sees everything and is seen by all.
        pool: (h, w) of the cells over which keys and values are averaged, or None.
    """
    channels = DIM // HEADS
    before = tokens.shape[1] - size[0] * size[1]
    places = [(row, column) for row in range(size[0]) for column in range(size[1])]
    mixed = torch.zeros_like(tokens)
    for image, rows in enumerate(attention.qkv(tokens)):
        for head in range(HEADS):
            query, key, value = (rows[:, at : at + channels].clone() for at in range(head * channels, 3 * DIM, DIM))
            if rope:
                for index, place in enumerate(places, start=before):
                    query[index], key[index] = (turned(part[index], *place, size) for part in (query, key))
            seen = {}
            for index, (row, column) in enumerate(places, start=before):
                cell = (row // pool[0], column // pool[1]) if pool else (row, column)
                seen.setdefault(cell, []).append(index)
            keys = {cell: key[members].mean(dim=0) for cell, members in seen.items()}
            values = {cell: value[members].mean(dim=0) for cell, members in seen.items()}
            for index in range(len(rows)):
                own = places[index - before] if index >= before else None
                cells = [
                    cell
                    for cell in seen
                    if window is None
                    or own is None
                    or all(mine // side == other // side for mine, other, side in zip(own, cell, window, strict=True))
                ]
                all_keys = torch.stack([*key[:before], *(keys[cell] for cell in cells)])
                all_values = torch.stack([*value[:before], *(values[cell] for cell in cells)])
                part = slice(head * channels, (head + 1) * channels)
                mixed[image, index, part] = weights(query[index], all_keys) @ all_values
    return attention.proj(mixed)


@pytest.mark.parametrize("attention_form", ["sdpa", "explicit"])
@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 2)])
@torch.no_grad()
def test_global_attention_is_a_softmax_over_all_tokens(size, prefix, attention_form):
    attention = build_attention(attention=attention_form)
    tokens = random_tokens(prefix, size)
    assert_close(attention(tokens, size), written_out(attention, tokens, size))


@pytest.mark.parametrize("attention_form", ["sdpa", "explicit"])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((4, 8), (4, 4)),  # fits
        ((3, 4), (3, 4)),  # smaller than a window
        ((8, 5), (4, 3)),  # columns padded, windows oblong
        ((7, 5), (4, 3)),  # both padded
    ],
)
@torch.no_grad()
def test_windows_see_themselves_and_the_prefix_which_sees_everything(size, window, prefix, rope, attention_form):
    attention = build_attention(window=4, attention=attention_form)
    tokens = random_tokens(prefix, size)
    rotation = Rotation.of_grid(size, DIM // HEADS, tokens.dtype) if rope else None
    assert_close(attention(tokens, size, rotation), written_out(attention, tokens, size, window, rope), **FLOAT32)


@pytest.mark.parametrize("attention_form", ["sdpa", "explicit"])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("rope", [False, True])
@torch.no_grad()
def test_padding_is_never_looked_at(pad_with_noise, rope, prefix, attention_form):
    attention = build_attention(window=4, attention=attention_form)
    size = 7, 11
    tokens = random_tokens(prefix, size)
    rotation = Rotation.of_grid(size, DIM // HEADS, tokens.dtype) if rope else None
    expected = attention(tokens, size, rotation)
    padded = pad_with_noise()
    assert_close(attention(tokens, size, rotation), expected)
    assert len(padded) == (3 if rope else 1)  # query, key and value; where nothing turns them, all at once


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("rope", [False, True])
@torch.no_grad()
def test_linear_attention_is_a_sum_of_feature_products(prefix, rope):
    attention = build_attention(attention="linear")
    size = 3, 4
    tokens = random_tokens(prefix, size)
    rotation = Rotation.of_grid(size, DIM // HEADS, tokens.dtype) if rope else None
    expected = written_out(attention, tokens, size, rope=rope, weights=linear_weights)
    assert_close(attention(tokens, size, rotation), expected, **FLOAT32)


@torch.no_grad()
def test_linear_attention_keeps_the_softmax_in_windows():
    size = 7, 5
    linear, softmax = build_attention(window=4, attention="linear"), build_attention(window=4)
    tokens = random_tokens(2, size)
    assert torch.equal(linear(tokens, size), softmax(tokens, size))


@pytest.mark.parametrize("form", [FusedSoftmax, ExplicitSoftmax, LinearAttention])
def test_a_masked_key_is_as_good_as_none(form):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, HEADS, 7, 8, dtype=torch.float64)
    real = torch.tensor([True, True, False, True, False, True, True])
    expected = form()(query, key[..., real, :], value[..., real, :], None)
    assert_close(form()(query, key, value, real.expand(2, 1, 1, 7)), expected)


def count_flops(attention, size):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        attention.to("meta")(torch.empty(1, size[0] * size[1], DIM), size)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("options", "growth"),
    [
        (dict(attention="linear"), 4.0),
        (dict(attention="explicit", pooled=True), 4.0),
        (dict(attention="explicit", window=14), 4.0),
        (dict(attention="explicit"), 15.0),
    ],
    ids=["linear", "pooled", "windows", "full"],
)
def test_flops_grow_with_the_tokens(options, growth):
    """Twice the side: linear forms cost four times as much, full attention close to sixteen times."""
    small, large = (count_flops(build_attention(torch.float32, **options), (side, side)) for side in (56, 112))
    if growth == 4.0:
        assert large == 4 * small
    else:
        assert large > growth * small


def assert_same_gradients(first, second, tokens, size, rotation=None):
    results = []
    for attention in (first, second):
        image = tokens.clone().requires_grad_()
        mixed = attention(image, size, rotation)
        (mixed * torch.linspace(-1, 1, mixed.numel(), dtype=mixed.dtype).view_as(mixed)).sum().backward()
        results.append([mixed, image.grad, *(parameter.grad for parameter in attention.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert ours.abs().max() > 0
        assert_close(ours, theirs)


@pytest.mark.parametrize("options", [dict(), dict(window=4), dict(pooled=True)], ids=["full", "windows", "pooled"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_explicit_equals_fused(options, prefix):
    size = (17, 15) if options.get("pooled") else (7, 11)
    tokens = random_tokens(prefix, size)
    rotation = Rotation.of_grid(size, DIM // HEADS, tokens.dtype)
    fused, explicit = build_attention(**options), build_attention(attention="explicit", **options)
    assert_same_gradients(fused, explicit, tokens, size, rotation)


@pytest.mark.parametrize(
    ("options", "prefix", "maps"),
    [
        (dict(), 0, [(2, HEADS, 77, 77)]),
        (dict(), 2, [(2, HEADS, 77, 79), (2, HEADS, 2, 79)]),
        (dict(window=4), 2, [(2 * 6, HEADS, 16, 18), (2, HEADS, 2, 79)]),
    ],
    ids=["full", "prefix", "windows"],
)
@torch.no_grad()
def test_hooks_read_the_attention_map(options, prefix, maps):
    attention = build_attention(attention="explicit", **options)
    size = 7, 11
    seen, operands = [], []
    attention.attend.softmax.register_forward_hook(lambda _, inputs, output: seen.append(output))
    attention.attend.register_forward_pre_hook(lambda _, inputs: operands.append(inputs))
    attention(random_tokens(prefix, size), size)
    assert [tuple(part.shape) for part in seen] == maps
    for weights, (query, key, value, mask) in zip(seen, operands, strict=True):
        assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
        assert (weights >= 0).all()
        assert query.shape[-2:] == (weights.shape[-2], DIM // HEADS)
        assert key.shape == value.shape == (*weights.shape[:2], weights.shape[-1], DIM // HEADS)
        if mask is not None:
            assert not weights[~mask.expand_as(weights)].any()  # nothing falls on padding


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize(("size", "cell"), [((5, 16), (1, 2)), ((15, 29), (2, 3))])
@torch.no_grad()
def test_pooled_keys_are_means_over_cells(size, cell, rope, prefix):
    attention = build_attention(pooled=True)
    tokens = random_tokens(prefix, size, batch=1)
    rotation = Rotation.of_grid(size, DIM // HEADS, tokens.dtype) if rope else None
    expected = written_out(attention, tokens, size, rope=rope, pool=cell)
    assert_close(attention(tokens, size, rotation), expected, **FLOAT32)


@pytest.mark.parametrize("size", [(14, 14), (1, 14), (9, 3)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_pooled_is_full_attention_up_to_fourteen_tokens_a_side(size, prefix):
    tokens = random_tokens(prefix, size)
    assert_same_gradients(build_attention(), build_attention(pooled=True), tokens, size)


def test_pooled_is_not_full_attention_beyond():
    tokens = random_tokens(0, (15, 15))
    full, pooled = (build_attention(pooled=pooled)(tokens, (15, 15)) for pooled in (False, True))
    assert (full - pooled).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (14, 15), (28, 29), (64, 200)])
def test_pooled_grids_have_at_most_fourteen_tokens_a_side_and_constants_stay(size):
    pooled = pool_grid(torch.full((1, *size, 3), 0.7))
    assert max(pooled.shape[1:3]) <= 14
    assert_close(pooled, torch.full_like(pooled, 0.7))


def test_windows_are_never_pooled():
    size = 20, 30
    tokens = random_tokens(1, size)
    assert torch.equal(build_attention(window=7, pooled=True)(tokens, size), build_attention(window=7)(tokens, size))


@pytest.mark.parametrize("options", [dict(), dict(window=4), dict(attention="linear"), dict(pooled=True)])
@torch.no_grad()
def test_images_of_a_batch_do_not_mix(options):
    size = 7, 16
    attention = build_attention(**options)
    tokens = random_tokens(2, size, batch=3)
    together = attention(tokens, size)
    for image in range(3):
        assert_close(attention(tokens[image : image + 1], size)[0], together[image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=5), "5 attention heads do not divide 24 channels; use a multiple of 5"),
        (dict(window=-1), "attention window -1 is negative; 0 attends globally"),
        (dict(attention="flash"), "attention 'flash' is not one of sdpa, explicit, linear"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError) as error:
        GridAttention(**{"dim": 24, "heads": 3, **options})
    assert str(error.value) == message


@pytest.mark.parametrize("count", [256, 4096])
def test_linear_attention_holds_in_float16(count):
    """A sum over 4,096 keys of values around one is more than float16 can hold."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, count, 32, generator=generator) for _ in range(3))
    form = LinearAttention()
    exact = form(query.double(), key.double(), value.double(), None)
    with torch.autocast("cpu", torch.float16):
        rough = form(query, key, value, None)
    assert (rough.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("attend", [attend_by_products, AttendInChunks.apply])
@pytest.mark.parametrize("masked", [False, True])
def test_products_equal_the_fused_kernel(attend, masked, monkeypatch):
    monkeypatch.setattr(attention_module, "QUERIES_AT_ONCE", 16)  # 40 queries: two whole chunks and a rest
    query, key, value = (torch.randn(5, HEADS, count, 8, requires_grad=True) for count in (40, 37, 37))
    mask = torch.rand(5, 1, 1, 37, generator=torch.Generator().manual_seed(3)) > 0.3 if masked else None
    found = attend(query, key, value, mask)
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert_close(found, wanted, **FLOAT32)
    gradient = torch.randn_like(found)
    for ours, theirs in zip(
        *(torch.autograd.grad(output, (query, key, value), gradient) for output in (found, wanted)), strict=True
    ):
        assert_close(ours, theirs, **FLOAT32)


def test_bfloat16_on_a_cpu_keeps_few_scores_and_recomputes_many(monkeypatch):
    def fused(dtype):
        parts = [torch.randn(1, 1, 4, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
        return type(FusedSoftmax()(*parts, None).grad_fn).__name__

    assert "ScaledDotProduct" in fused(torch.float32)
    assert "Unflatten" in fused(torch.bfloat16) or "View" in fused(torch.bfloat16)
    monkeypatch.setattr(attention_module, "MOST_SCORES_KEPT", 15)  # 4 × 4 scores are then too many to keep
    assert fused(torch.bfloat16) == "AttendInChunksBackward"
