"""Maps of one image at two strides stay aligned: same geometry, whatever the image's size."""

import math

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.layers.resample import to_stride

STRIDES = [(4, 16), (8, 16), (16, 16), (32, 16), (16, 4), (16, 8), (16, 32)]
SIDES = [32, 33, 47, 48, 49, 63, 65, 250]


def map_size(side, stride):
    return math.ceil(side / stride)


@pytest.mark.parametrize(("stride", "target"), STRIDES)
@pytest.mark.parametrize("height", SIDES)
def test_size_is_that_of_the_target_stride_and_constants_stay(stride, target, height):
    for width in SIDES:
        size = map_size(height, target), map_size(width, target)
        features = torch.full((2, 3, map_size(height, stride), map_size(width, stride)), 0.7)
        resampled = to_stride(features, stride, target, size)
        assert resampled.shape == (2, 3, *size)
        assert_close(resampled, torch.full_like(resampled, 0.7))


def ramp(side, stride):
    """Each cell holds the image coordinate of its centre: (1, 1, n, n), rising along both axes."""
    centres = (torch.arange(map_size(side, stride)) + 0.5) * stride
    return (centres[:, None] + 2 * centres[None, :])[None, None]


@pytest.mark.parametrize(("stride", "target"), STRIDES)
@pytest.mark.parametrize("side", [160, 167])
def test_a_ramp_keeps_its_geometry(stride, target, side):
    expected = ramp(side, target)
    resampled = to_stride(ramp(side, stride), stride, target, expected.shape[-2:])
    # At the border there is nothing to interpolate with, and a last cell may be filled in part.
    margin = max(stride // target, 1)
    inner = slice(margin, -margin)
    assert expected[..., inner, inner].numel()
    assert_close(resampled[..., inner, inner], expected[..., inner, inner])


def test_a_cell_that_the_image_fills_in_part_counts_what_is_there():
    features = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).expand(1, 1, 5, 5)
    resampled = to_stride(features, 4, 16, (2, 2))
    assert_close(resampled[0, 0], torch.tensor([[2.5, 10.0], [2.5, 10.0]]))


def test_the_same_stride_passes_untouched():
    features = torch.randn(1, 2, 3, 4)
    assert to_stride(features, 16, 16, (3, 4)) is features


@pytest.mark.parametrize("size", [(8, 12), (9, 12)])
def test_the_gradient_of_a_mean_is_spread_over_its_cell(size):
    features = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: to_stride(maps, 4, 16, None), features)
