"""GroupedConv2d against nn.Conv2d: the same values and gradients, with fewer groups only where bfloat16 trains."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from hybrid_dense.layers.grouped_conv import GroupedConv2d, merge_groups


@pytest.fixture
def groups_seen(monkeypatch):
    """The number of groups of every convolution."""
    seen, conv2d = [], F.conv2d

    def watch(*args):
        seen.append(args[-1])
        return conv2d(*args)

    monkeypatch.setattr(F, "conv2d", watch)
    return seen


def build(channels, groups, stride=1):
    torch.manual_seed(0)
    ours = GroupedConv2d(channels, channels, 3, stride, 1, 1, groups, bias=False)
    plain = nn.Conv2d(channels, channels, 3, stride, 1, 1, groups, bias=False)
    plain.load_state_dict(ours.state_dict())
    return ours, plain, torch.randn(2, channels, 9, 7)


@pytest.mark.parametrize(("groups", "merged"), [(8, 2), (8, 4), (4, 4)])
def test_merged_groups_convolve_alike(groups, merged):
    ours, plain, features = build(32, groups)
    found = F.conv2d(features, merge_groups(ours.weight, groups, merged), None, 1, 1, 1, groups // merged)
    assert_close(found, plain(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(128, 32, 8), (64, 16, 4), (64, 8, 8), (512, 32, 32), (32, 1, 1)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_training_in_bfloat16_merges_narrow_groups(channels, groups, expected, stride, groups_seen):
    ours, plain, features = build(channels, groups, stride)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = ours(features), plain(features)
    assert groups_seen == [expected, groups]
    assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    wanted.backward(gradient)
    assert_close(ours.weight.grad, plain.weight.grad, rtol=2e-2, atol=2e-2 * plain.weight.grad.abs().max().item())


def test_float32_and_inference_stay_plain(groups_seen):
    ours, plain, features = build(128, 32)
    assert torch.equal(ours(features), plain(features))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(features), plain(features))
    assert groups_seen == [32] * 4
