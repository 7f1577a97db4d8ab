"""WindowPlan over every side a grid is likely to have."""

import math

import pytest
import torch

from hybrid_dense.layers.windows import WindowPlan

LARGEST = 14
SIDES = range(1, 61)


@pytest.mark.parametrize("height", SIDES)
def test_split_and_merge_are_inverse(height):
    for width in (height, 61 - height, 1, 37):
        plan = WindowPlan.fit(height, width, LARGEST)
        grid = torch.randn(2, height, width, 12)
        first, second = plan.split_heads(grid, heads=2, channels=3)
        assert first.shape == second.shape
        assert first.shape == (2 * plan.rows * plan.columns, 2, plan.window[0] * plan.window[1], 3)
        merged = torch.cat((plan.merge_heads(first), plan.merge_heads(second)), dim=-1)
        assert torch.equal(merged, grid)


@pytest.mark.parametrize("height", SIDES)
def test_windows_are_even_and_none_is_wholly_padding(height):
    for width in SIDES:
        plan = WindowPlan.fit(height, width, LARGEST)
        for side, count, window, padding in zip(
            (height, width), (plan.rows, plan.columns), plan.window, plan.padding, strict=True
        ):
            assert window <= LARGEST
            assert count == math.ceil(side / LARGEST), "more windows than needed"
            assert padding == count * window - side
            assert 0 <= padding < window, "a window of padding only"
            assert padding <= -side % LARGEST, "more padding than windows of the largest size need"
        mask = plan.mask(2, torch.device("cpu"))
        if plan.padding == (0, 0):
            assert mask is None
        else:
            assert mask.any(dim=-1).all(), "a softmax over nothing"


def test_padding_over_all_sizes_is_far_below_that_of_fixed_windows():
    ours = fixed = 0
    for height in SIDES:
        for width in SIDES:
            plan = WindowPlan.fit(height, width, LARGEST)
            ours += plan.rows * plan.window[0] * plan.columns * plan.window[1] - height * width
            fixed += (height + -height % LARGEST) * (width + -width % LARGEST) - height * width
    assert ours < fixed / 4


@pytest.mark.parametrize(
    ("side", "windows", "window"), [(14, 1, 14), (15, 2, 8), (28, 2, 14), (29, 3, 10), (32, 3, 11), (5, 1, 5)]
)
def test_known_splits(side, windows, window):
    plan = WindowPlan.fit(side, 3, LARGEST)
    assert (plan.rows, plan.window) == (windows, (window, 3))


@pytest.mark.parametrize(("height", "width"), [(15, 29), (15, 14), (5, 31)])
def test_mask_is_true_exactly_for_real_tokens(height, width):
    plan = WindowPlan.fit(height, width, LARGEST)
    mask = plan.mask(2, torch.device("cpu"))
    windows = plan.split_heads(torch.ones(2, height, width, 1), 1, 1)[0].squeeze(1)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(windows), 1, 1, windows.shape[1])
    assert torch.equal(mask[:, 0, 0], windows[..., 0] == 1)


def test_windows_are_contiguous_blocks_in_reading_order():
    row, column = torch.meshgrid(torch.arange(8), torch.arange(6), indexing="ij")
    windows = WindowPlan.fit(8, 6, 4).split_heads(torch.stack((row, column), dim=-1)[None], 1, 2)[0].squeeze(1)
    corners = [tuple(window[0].tolist()) for window in windows]
    assert corners == [(0, 0), (0, 3), (4, 0), (4, 3)]
    assert windows[3][:4].tolist() == [[4, 3], [4, 4], [4, 5], [5, 3]]
