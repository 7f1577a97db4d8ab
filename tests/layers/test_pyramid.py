import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.archs import CNN_STRIDES
from hybrid_dense.layers.pyramid import GridPyramid

DIM = 16


def build():
    torch.manual_seed(0)
    return GridPyramid(DIM)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (49, 64), (250, 127), (48, 17)])
@torch.no_grad()
def test_four_maps_at_any_size(size):
    pyramid = build()
    grid = torch.randn(2, DIM, *(math.ceil(side / 16) for side in size))
    maps = pyramid(grid, size)
    assert [tuple(level.shape) for level in maps] == [
        (2, feature.channels, *(math.ceil(side / feature.stride) for side in size)) for feature in pyramid.features
    ]
    assert [feature.stride for feature in pyramid.features] == list(CNN_STRIDES)
    assert [feature.channels for feature in pyramid.features] == [DIM // 4, DIM // 2, DIM, DIM]


@torch.no_grad()
def test_what_each_level_computes():
    pyramid = build()
    grid = torch.randn(2, DIM, 3, 4)
    by_4, by_8, by_16, by_32 = pyramid(grid, (48, 64))
    up, norm, _, up_again = pyramid.levels[0]
    hidden = torch.stack([cells(grid, up.weight, up.bias, image) for image in range(2)])
    hidden = F.layer_norm(hidden.permute(0, 2, 3, 1), (DIM // 2,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    hidden = F.gelu(hidden)
    expected = torch.stack([cells(hidden, up_again.weight, up_again.bias, image) for image in range(2)])
    assert_close(by_4, expected, rtol=1e-5, atol=1e-5)
    single = pyramid.levels[1]
    assert_close(by_8, torch.stack([cells(grid, single.weight, single.bias, image) for image in range(2)]))
    assert torch.equal(by_16, grid)
    padded = F.pad(grid, (0, 0, 0, 1), value=-math.inf)
    assert torch.equal(by_32, padded.unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax(dim=(3, 5)))


def cells(grid, weight, bias, image):
    """Each token to 2 × 2 cells by four matrices: a transposed convolution of stride 2 written out."""
    height, width = grid.shape[-2:]
    result = torch.empty(weight.shape[1], 2 * height, 2 * width)
    for row in range(2 * height):
        for column in range(2 * width):
            token = grid[image, :, row // 2, column // 2]
            result[:, row, column] = token @ weight[:, :, row % 2, column % 2] + bias
    return result


def test_gradients_reach_every_parameter_and_token():
    pyramid = build()
    grid = torch.randn(1, DIM, 3, 4, requires_grad=True)
    sum(level.square().sum() for level in pyramid(grid, (48, 64))).backward()
    assert grid.grad.abs().min() > 0
    for name, parameter in pyramid.named_parameters():
        assert parameter.grad.abs().max() > 0, name
