import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.layers.position import resample_positions


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
