import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.layers.position import Rotation, resample_positions, sine_positions


def test_the_native_size_passes_untouched():
    positions = torch.randn(1, 8, 14, 14)
    assert resample_positions(positions, (14, 14)) is positions
    assert resample_positions(positions, positions.shape[-2:]) is positions


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (14, 9), (20, 37), (64, 64)])
def test_any_size_and_constants_stay(size):
    positions = torch.full((1, 8, 14, 14), 0.3)
    resampled = resample_positions(positions, size)
    assert resampled.shape == (1, 8, *size)
    assert_close(resampled, torch.full_like(resampled, 0.3))


def test_rows_and_columns_are_not_swapped():
    rows = torch.arange(14.0)[:, None].expand(14, 14)[None, None]
    resampled = resample_positions(rows, (7, 28))[0, 0]
    assert_close(resampled, resampled[:, :1].expand(7, 28))
    assert (resampled.diff(dim=0) > 1).all()


def test_shrinking_averages_instead_of_skipping():
    """A fifth of the size: without antialiasing only one position in 25 would count."""
    positions = torch.randn(1, 1, 35, 35, requires_grad=True)
    resample_positions(positions, (7, 7)).sum().backward()
    assert_close(positions.grad[..., 5:-5, 5:-5], torch.full((1, 1, 25, 25), 1 / 25), rtol=0.25, atol=0)


def test_equals_the_resampling_of_timm():
    positions = torch.randn(1, 8, 14, 14)
    expected = F.interpolate(positions, size=(9, 23), mode="bicubic", antialias=True)
    assert torch.equal(resample_positions(positions, (9, 23)), expected)


def test_half_precision_is_resampled_in_float32():
    positions = torch.randn(1, 8, 14, 14)
    resampled = resample_positions(positions.bfloat16(), (9, 23))
    assert resampled.dtype == torch.bfloat16
    assert torch.equal(resampled, resample_positions(positions.bfloat16().float(), (9, 23)).bfloat16())


def test_gradients_reach_the_learned_grid():
    positions = torch.randn(1, 2, 14, 14, requires_grad=True)
    resample_positions(positions, (5, 9)).sum().backward()
    assert positions.grad.abs().min() > 0


@pytest.mark.parametrize("size", [(14, 14), (5, 9), (1, 30)])
def test_sines_written_out(size):
    dim, native = 16, 14
    positions = sine_positions(dim, size, native)
    assert positions.shape == (1, dim, *size)
    for row in range(size[0]):
        for column in range(size[1]):
            expected = []
            for place, side in ((column, size[1]), (row, size[0])):
                angles = [place * native / side / 10000 ** (index / 4) for index in range(4)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            assert_close(positions[0, :, row, column], torch.tensor(expected), rtol=1e-5, atol=2e-6)


def test_sines_of_a_larger_grid_pass_through_those_of_the_native_one():
    assert_close(sine_positions(32, (28, 42), 14)[..., ::2, ::3], sine_positions(32, (14, 14), 14), rtol=0, atol=1e-5)


def test_sines_tell_all_places_apart():
    positions = sine_positions(96, (14, 14), 14)[0].flatten(1).T
    distances = torch.cdist(positions, positions) + 10 * torch.eye(196)
    assert distances.min() > 0.5


def rotate(size, channels=16, dtype=torch.float64):
    return Rotation.of_grid(size, channels, dtype)


def scores(rotation, query, key):
    """Products (h · w, h · w) of one query and one key put at every place of the grid."""
    size = rotation.cosine.shape[:2]
    queries, keys = (rotation.turn(part.expand(1, *size, 1, -1)).flatten(0, 3) for part in (query, key))
    return queries @ keys.T


@pytest.mark.parametrize("size", [(5, 7), (8, 3)])
def test_scores_depend_on_the_relative_place_only(size):
    torch.manual_seed(0)
    query, key = torch.randn(2, 16, dtype=torch.float64)
    products = scores(rotate(size), query, key).view(*size, *size)
    for down in range(size[0] - 1):
        for right in range(size[1] - 1):
            # One step down and right from everywhere: all these scores are one number, at every distance.
            origin = products[: size[0] - down, : size[1] - right, down:, right:]
            diagonal = torch.einsum("abab->ab", origin)
            assert_close(diagonal, diagonal[:1, :1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    assert products.view(-1)[: size[1]].std() > 0.1  # and at different distances they differ
    assert products[:, 0, 0, 0].std() > 0.1


def test_turning_keeps_lengths_and_the_centre():
    torch.manual_seed(0)
    heads = torch.randn(2, 5, 7, 3, 16)
    turned = rotate((5, 7), dtype=torch.float32).turn(heads)
    assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert_close(turned[:, 2, 3], heads[:, 2, 3])  # the centre of the image is the origin
    assert (turned[:, 0, 0] - heads[:, 0, 0]).abs().max() > 0.1


def test_rows_turn_one_half_of_the_pairs_and_columns_the_other():
    torch.manual_seed(0)
    heads = torch.randn(1, 1, 1, 1, 16).expand(1, 5, 7, 1, 16)
    turned = rotate((5, 7), dtype=torch.float32).turn(heads)[0, :, :, 0].unflatten(-1, (2, 2, 4))
    by_row, by_column = turned[..., :, 0, :], turned[..., :, 1, :]
    assert_close(by_row, by_row[:, :1].expand_as(by_row))
    assert_close(by_column, by_column[:1].expand_as(by_column))
    assert by_row.std(dim=0).max() > 0.1
    assert by_column.std(dim=1).max() > 0.1


def test_every_grid_spans_the_same_angles():
    """Places are relative to the grid: a grid twice as fine has its tokens between those of the coarse one."""
    coarse, fine = (torch.atan2(rotate((side, side)).sine, rotate((side, side)).cosine) for side in (4, 12))
    assert_close(fine[1::3, 1::3], coarse, rtol=0, atol=1e-5)


def test_the_dtype_is_that_of_the_tokens():
    rotation = rotate((3, 4), dtype=torch.bfloat16)
    assert rotation.cosine.dtype == rotation.sine.dtype == torch.bfloat16
    # Angles in bfloat16 would be off by hundredths; only their cosines are rounded.
    assert torch.equal(rotation.cosine, rotate((3, 4), dtype=torch.float32).cosine.bfloat16())
