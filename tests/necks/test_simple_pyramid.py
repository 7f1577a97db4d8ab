"""SimplePyramid against ViTDet's pyramid written out."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.necks import SimplePyramid

DIM, WIDTH = 24, 16


def build(**options):
    torch.manual_seed(0)
    neck = SimplePyramid(**dict(dict(in_channels=DIM, out_channels=WIDTH), **options))
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return neck


def layer_norm(features, weight, bias):
    """Over the channels, by the formula."""
    mean = features.mean(dim=1, keepdim=True)
    variance = features.var(dim=1, unbiased=False, keepdim=True)
    return (features - mean) / (variance + 1e-6).sqrt() * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("start_level", [0, 1, 2, 3])
def test_equals_the_pyramid_of_the_paper(start_level):
    """Li et al. 2022, section 3: deconvolutions and a pooling, then per level 1×1, LN, 3×3, LN, none with a bias."""
    neck = build(num_outs=6 - start_level, start_level=start_level)
    grid = torch.randn(2, DIM, 4, 6)
    state = iter(neck.state_dict().values())
    levels = []
    if start_level < 1:
        up = F.conv_transpose2d(grid, next(state), next(state), stride=2)
        levels.append(F.conv_transpose2d(F.gelu(layer_norm(up, next(state), next(state))), next(state), next(state), 2))
    if start_level < 2:
        levels.append(F.conv_transpose2d(grid, next(state), next(state), stride=2))
    levels += [grid, F.max_pool2d(grid, 2)][max(start_level - 2, 0) :]
    expected = []
    for level in levels:
        level = layer_norm(F.conv2d(level, next(state)), next(state), next(state))
        expected.append(layer_norm(F.conv2d(level, next(state), padding=1), next(state), next(state)))
    assert next(state, None) is None
    while len(expected) < 6 - start_level:
        expected.append(expected[-1][..., ::2, ::2])
    for ours, theirs in zip(neck(grid), expected, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_finer_maps_say_where_the_image_ends_and_nothing_else():
    alone, among = build(), build(in_channels=[8, 16, DIM, 32])
    among.load_state_dict(alone.state_dict())
    sizes = [(17, 33), (9, 17), (5, 9), (3, 5)]
    features = [torch.randn(1, width, *size) for width, size in zip([8, 16, DIM, 32], sizes, strict=True)]
    whole, cut = alone(features[2]), among(features)
    assert [tuple(level.shape[-2:]) for level in whole] == [(20, 36), (10, 18), (5, 9), (3, 5), (2, 3)]
    assert [tuple(level.shape[-2:]) for level in cut] == [*sizes, (2, 3)]
    for ours, reaching in zip(cut, whole, strict=True):
        height, width = (max(side - 1, 1) for side in ours.shape[-2:])  # the 3×3 convolution sees the edge
        assert_close(ours[..., :height, :width], reaching[..., :height, :width])


@torch.no_grad()
def test_a_map_of_its_own_or_in_a_list():
    neck, grid = build(), torch.randn(1, DIM, 4, 6)
    for level, other in zip(neck(grid), neck([grid]), strict=True):
        assert torch.equal(level, other)


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "index"),
    [({}, 2), (dict(in_index=3, strides=[16] * 4), 3), (dict(in_index=-1, strides=[16] * 4), 3), (dict(in_index=0), 0)],
)
def test_which_map_is_taken(options, index):
    neck = build(in_channels=[DIM] * 4, **options)
    assert neck.in_index == index
    features = [torch.zeros(1, DIM, 64 // stride, 64 // stride) for stride in neck.strides]
    zero = neck(features)
    features[index].normal_()
    assert all(not torch.allclose(level, old) for level, old in zip(neck(features), zero, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(in_index=4, in_channels=[8] * 4), ["in_index 4", "-4, -3, -2, -1, 0, 1, 2, 3"]),
        (dict(in_index=1, in_channels=[8] * 2, strides=[4, 8]), ["map 1", "[4, 8]", "stride 16", "neck.in_index"]),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ValueError) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_maps_that_all_have_stride_16():
    features = [torch.randn(1, DIM, 8, 8)] * 4
    with pytest.raises(ValueError, match="8×8, 8×8, 8×8 cells do not lie at strides 4, 8, 16; set neck.strides"):
        build(in_channels=[DIM] * 4)(features)
