"""PointwiseConv2d computes what nn.Conv2d does, by whichever way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_dense.layers import pointwise
from hybrid_dense.layers.pointwise import PointwiseConv2d


def run(conv, features, gradient):
    conv.zero_grad()
    features = features.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        maps = conv(features)
    maps.backward(gradient.to(maps.dtype))
    return maps, features.grad, conv.weight.grad, conv.bias.grad


@pytest.mark.parametrize("stride", [1, 2])
def test_both_ways_give_the_same_maps_and_gradients(stride, monkeypatch):
    torch.manual_seed(0)
    conv = PointwiseConv2d(24, 40, stride).to(memory_format=torch.channels_last)
    features = torch.randn(2, 24, 9, 7).to(memory_format=torch.channels_last)
    gradient = torch.randn(conv(features).shape).to(memory_format=torch.channels_last)
    expected = run(conv, features, gradient)
    products = []
    monkeypatch.setattr(pointwise, "LARGE_WEIGHT", 24 * 40)
    monkeypatch.setattr(F, "linear", lambda *args, linear=F.linear: products.append(1) or linear(*args))
    found = run(conv, features, gradient)
    assert products, "it was a convolution"
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    # DDP copies every gradient that is not laid out like its weight.
    assert found[2].stride() == conv.weight.stride()


def test_float32_stays_a_convolution(monkeypatch):
    monkeypatch.setattr(pointwise, "LARGE_WEIGHT", 1)
    monkeypatch.setattr(F, "linear", None)
    conv, features = PointwiseConv2d(8, 16, 2), torch.randn(1, 8, 5, 5)
    assert torch.equal(conv(features), nn.functional.conv2d(features, conv.weight, conv.bias, 2))
