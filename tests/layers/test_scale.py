import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.layers.scale import LayerScale


@pytest.mark.parametrize("start", [1e-5, 1.0])
def test_starts_at_one_factor_for_all_channels(start):
    branch = torch.randn(2, 5, 6)
    assert_close(LayerScale(6, start)(branch), start * branch)


def test_one_factor_a_channel_and_its_gradient():
    scale = LayerScale(3, 1.0)
    scale.gamma.data = torch.tensor([1.0, -2.0, 0.0])
    branch = torch.randn(2, 5, 3)
    scaled = scale(branch)
    assert torch.equal(scaled, torch.stack((branch[..., 0], -2 * branch[..., 1], 0 * branch[..., 2]), dim=-1))
    scaled.sum().backward()
    assert_close(scale.gamma.grad, branch.sum(dim=(0, 1)))
