"""DeformableFusion samples the other stream where its offsets say, on the scale that its weights choose."""

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion import build_fusion

HEADS, SCALES, POINTS = 1, 3, 4


@pytest.fixture
def bridge(build):
    return build("DeformableFusion", conv=FeatureSpec(32, 16)).to_cnn


def aim(bridge, scale, offset):
    """Let every query look at one scale, at one offset in that scale's cells."""
    attention = bridge.attention
    with torch.no_grad():
        attention.offsets.weight.zero_()
        attention.weights.weight.zero_()
        attention.offsets.bias.copy_(torch.tensor(offset).float().repeat(HEADS * SCALES * POINTS))
        chosen = torch.full((HEADS, SCALES, POINTS), -1e4)
        chosen[:, scale] = 0
        attention.weights.bias.copy_(chosen.flatten())
    return bridge


@torch.no_grad()
def test_without_offsets_a_position_gets_its_own_value(bridge, normalise, convolve):
    conv, grid = torch.randn(2, 32, 5, 7), torch.randn(2, 48, 5, 7)
    value = convolve(bridge.value, normalise(bridge.norm_source, grid))
    fused = aim(bridge, 0, (0, 0))(conv, grid)
    assert_close(fused, conv + convolve(bridge.project, value), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_offset_shifts_and_beyond_the_edge_there_is_nothing(bridge, normalise, convolve):
    conv, grid = torch.randn(2, 32, 5, 7), torch.randn(2, 48, 5, 7)
    value = convolve(bridge.value, normalise(bridge.norm_source, grid))
    shifted = torch.zeros_like(value)
    shifted[:, :, 1:, :-2] = value[:, :, :-1, 2:]
    fused = aim(bridge, 0, (2, -1))(conv, grid)
    assert_close(fused, conv + convolve(bridge.project, shifted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 2])
@torch.no_grad()
def test_the_other_scales_are_averages_at_the_same_place(bridge, scale, normalise, convolve):
    """On 10 × 7 positions the coarse maps reach beyond the edge; a cell's centre must still be found."""
    conv, grid = torch.randn(1, 32, 10, 7), torch.randn(1, 48, 10, 7)
    value = convolve(bridge.value, normalise(bridge.norm_source, grid))
    side = 2**scale
    row = column = side
    cell = [
        value[:, :, top : top + side, left : min(left + side, 7)].mean(dim=(2, 3))
        for top in (0, side)
        for left in (0, side)
    ]
    # The centre of position (side, side) lies half a position beyond the corner that the four cells share.
    share = 0.5 + 0.5 / side
    weights = [(1 - share) ** 2, (1 - share) * share, share * (1 - share), share**2]
    sampled = sum(weight * mean for weight, mean in zip(weights, cell, strict=True))
    fused = aim(bridge, scale, (0, 0))(conv, grid)
    answer = conv[:, :, row, column] + convolve(bridge.project, sampled[:, :, None, None])[:, :, 0, 0]
    assert_close(fused[:, :, row, column], answer, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_starts_on_a_ring_with_equal_weights():
    fusion = build_fusion(dict(type="DeformableFusion"), FeatureSpec(256, 16), FeatureSpec(384, 16))
    offsets = fusion.to_cnn.attention.offsets.bias.reshape(8, SCALES, POINTS, 2)
    assert_close(offsets.abs().amax(dim=-1), torch.arange(1, 5).float().expand(8, SCALES, POINTS))
    assert len({tuple(direction) for direction in offsets[:, 0, 0].round(decimals=4).tolist()}) == 8
    assert not fusion.to_cnn.attention.weights.bias.any()


@torch.no_grad()
def test_the_target_decides_where_to_look(bridge):
    conv, grid = torch.randn(1, 32, 6, 6), torch.randn(1, 48, 6, 6)
    places = []
    bridge.attention.offsets.register_forward_hook(lambda module, inputs, offsets: places.append(offsets))
    bridge(conv, grid)
    bridge(conv, torch.randn_like(grid))
    bridge(torch.randn_like(conv), grid)
    assert torch.equal(places[0], places[1])
    assert not torch.allclose(places[0], places[2], atol=0.1)
