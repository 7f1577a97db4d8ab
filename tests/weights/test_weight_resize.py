"""Resized weights do on the resized image what they did on the original."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.weights.resize import resize, resize_channels, resize_patch, resize_positions


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("old", "new"), [(14, 16), (8, 16), (16, 20)])
def test_an_enlarged_patch_gets_the_response_it_had(old, new):
    kernel, patches = draw(5, 3, old, old), draw(4, 3, old, old)
    enlarged = F.interpolate(patches, size=(new, new), mode="bicubic", antialias=True)
    before, after = F.conv2d(patches, kernel), F.conv2d(enlarged, resize_patch(kernel, (new, new)))
    assert (after - before).norm() < 1e-4 * before.norm()
    # What one would do without the method, enlarging the kernel like an image, is far off.
    naive = F.interpolate(kernel, size=(new, new), mode="bicubic", antialias=True)
    assert (F.conv2d(enlarged, naive) - before).norm() > 0.05 * before.norm()


def test_a_smaller_kernel_is_the_least_squares_one():
    kernel = draw(2, 1, 32, 32)
    small = resize_patch(kernel, (16, 16))

    def error(candidate):
        pixels = torch.eye(32 * 32).reshape(-1, 1, 32, 32)
        shrunk = F.interpolate(pixels, size=(16, 16), mode="bicubic", antialias=True)
        return (F.conv2d(shrunk, candidate) - F.conv2d(pixels, kernel)).square().sum()

    assert all(error(small) < error(small + step * draw(2, 1, 16, 16)) for step in (0.01, -0.01, 0.1))


def test_position_tables_are_resampled_as_images():
    rows = torch.linspace(-1, 1, 14).reshape(14, 1, 1).expand(14, 14, 8)
    table = resize_positions(rows.reshape(1, 196, 8), torch.Size((1, 400, 8)))
    assert table.shape == (1, 400, 8)
    grid = table.reshape(20, 20, 8)
    assert_close(grid[:, 3, 0], grid[:, 17, 5], atol=1e-5, rtol=0)  # the columns are alike,
    assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()  # and the rows still rise


def test_what_is_no_square_grid_or_of_another_width_is_left_alone():
    shape = torch.Size((1, 196, 8))
    assert resize_positions(draw(1, 195, 8), shape) is None
    assert resize_positions(draw(1, 196, 16), shape) is None
    assert resize_positions(draw(196, 8), shape) is None


def test_a_grey_image_gets_the_response_of_its_rgb():
    kernel, grey = draw(4, 3, 7, 7), draw(2, 1, 20, 20)
    assert_close(F.conv2d(grey, resize_channels(kernel, 1)), F.conv2d(grey.expand(-1, 3, -1, -1), kernel))


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_other_channel_counts_repeat_and_keep_the_scale(channels):
    kernel = draw(4, 1, 7, 7).expand(-1, 3, -1, -1)  # of channels that all do the same
    grey = draw(2, 1, 20, 20)
    response = F.conv2d(grey.expand(-1, channels, -1, -1), resize_channels(kernel, channels))
    assert_close(response, F.conv2d(grey.expand(-1, 3, -1, -1), kernel), atol=1e-4, rtol=1e-4)
    assert_close(resize_channels(draw(4, 3, 7, 7), 5)[:, 3] * 5, draw(4, 3, 7, 7)[:, 0] * 3)


def test_channels_and_patch_are_resized_together():
    weight = resize("patch_embed.proj.weight", draw(8, 3, 14, 14), torch.Size((8, 1, 16, 16)))
    assert_close(weight, resize_patch(draw(8, 3, 14, 14).sum(1, keepdim=True), (16, 16)))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("patch_embed.proj.weight", (8, 3, 16, 16), (8, 1024, 1, 1)),  # reads a CNN's map, not an image
        ("patch_embed.proj.weight", (8, 1024, 1, 1), (8, 3, 16, 16)),
        ("patch_embed.proj.weight", (8, 3, 1, 1), (8, 3, 16, 16)),
        ("patch_embed.proj.weight", (8, 3, 16, 1), (8, 3, 16, 16)),
        ("patch_embed.proj.weight", (8, 64, 2, 2), (8, 3, 16, 16)),
        ("patch_embed.proj.weight", (8, 3, 16, 16), (16, 3, 16, 16)),
        ("pos_embed", (2, 49, 8), (1, 196, 8)),
        ("conv1.weight", (64, 3, 7, 7), (64, 3, 3, 3)),
        ("blocks.0.attn.proj.weight", (8, 8), (16, 16)),
    ],
)
def test_other_shapes_have_no_method(name, old, new):
    assert resize(name, draw(*old), torch.Size(new)) is None
