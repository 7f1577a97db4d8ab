"""CrossAttentionFusion looks through one window of the other stream, and never at what pads it."""

import math

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.layers.windows import WindowPlan

WIDE = FeatureSpec(64, 16)


def draw(height, width, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, height, width, generator=generator) for channels in (64, 70)]


@pytest.fixture
def bridge(build):
    return build("CrossAttentionFusion", conv=WIDE, grid=FeatureSpec(70, 16)).to_cnn


def attend_one_by_one(query, key, value, window_h, window_w):
    """Two heads of 32 channels; each position over all real positions of its window."""
    answer = torch.zeros_like(value)
    batch, _, height, width = query.shape
    for image in range(batch):
        for row in range(height):
            for column in range(width):
                top, left = row // window_h * window_h, column // window_w * window_w
                rows = slice(top, min(top + window_h, height))
                columns = slice(left, min(left + window_w, width))
                for head in (slice(0, 32), slice(32, 64)):
                    keys = key[image, head, rows, columns].flatten(1)
                    values = value[image, head, rows, columns].flatten(1)
                    weights = (query[image, head, row, column] @ keys / math.sqrt(32)).softmax(dim=0)
                    answer[image, head, row, column] = values @ weights
    return answer


@pytest.mark.parametrize("size", [(5, 3), (15, 17), (16, 4), (1, 29)])
@torch.no_grad()
def test_it_is_attention_one_position_at_a_time(bridge, size, normalise, convolve):
    target, source = draw(*size)
    asking, asked = normalise(bridge.norm_target, target), normalise(bridge.norm_source, source)
    query, key, value = convolve(bridge.query, asking), convolve(bridge.key, asked), convolve(bridge.value, asked)
    window = tuple(math.ceil(side / math.ceil(side / 14)) for side in size)
    attended = attend_one_by_one(query, key, value, *window)
    padded = torch.nn.functional.pad(value, (1, 1, 1, 1))
    around = sum(
        padded[..., row : row + size[0], column : column + size[1]]
        * bridge.neighbourhood.weight[:, 0, row, column, None, None]
        for row in range(3)
        for column in range(3)
    )
    expected = target + convolve(bridge.project, attended + around)
    assert_close(bridge(target, source), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_position_sees_its_window_and_its_neighbours(bridge):
    """Both streams are cut alike: what changes in the source's second window answers to the target's second window."""
    target, source = draw(15, 17, batch=1)
    other = source.clone()
    other[:, :, 10, 12] += torch.randn(70)
    changed = (bridge(target, source) - bridge(target, other)).abs().amax(dim=(0, 1)) > 1e-6
    # 15 and 17 positions make two windows of 8 and two of 9.
    expected = torch.zeros(15, 17, dtype=torch.bool)
    expected[8:, 9:] = True
    assert torch.equal(changed, expected)
    corner = source.clone()
    corner[:, :, 8, 9] += torch.randn(70)
    expected[7:10, 8:11] = True
    changed = (bridge(target, source) - bridge(target, corner)).abs().amax(dim=(0, 1)) > 1e-6
    assert torch.equal(changed, expected)


@torch.no_grad()
def test_what_pads_a_window_is_never_looked_at(bridge, monkeypatch):
    target, source = draw(15, 17)
    expected = bridge(target, source)
    split, noise = WindowPlan.split_heads, []

    def split_with_rubbish(self, grid, heads, channels):
        (windows,) = split(self, grid, heads, channels)
        if grid.dtype == torch.bool:
            return (windows,)
        (real,) = split(self, torch.ones_like(grid), heads, channels)
        noise.append((real == 0).sum().item())
        return (torch.where(real == 0, 1e3 * torch.randn_like(windows), windows),)

    monkeypatch.setattr(WindowPlan, "split_heads", split_with_rubbish)
    assert_close(bridge(target, source), expected)
    assert len(noise) == 3 and min(noise) > 0, "nothing was padded"


@torch.no_grad()
def test_streams_of_two_strides_meet_at_the_coarser(build, streams):
    """The finer stream is averaged over the cells of the coarser one, and the answer is spread over them."""
    conv, grid = torch.randn(1, 32, 8, 12), torch.randn(1, 48, 4, 6)
    fusion = build("CrossAttentionFusion")
    coarse = build("CrossAttentionFusion", conv=FeatureSpec(32, 16))
    averaged = conv.unflatten(2, (4, 2)).unflatten(4, (6, 2)).mean(dim=(3, 5))
    assert_close(fusion(conv, grid)[1], coarse(averaged, grid)[1])
    spread = torch.nn.functional.interpolate(
        coarse(averaged, grid)[0] - averaged, scale_factor=2, mode="bilinear", align_corners=False
    )
    assert_close(fusion(conv, grid)[0], conv + spread, rtol=1e-4, atol=1e-5)
