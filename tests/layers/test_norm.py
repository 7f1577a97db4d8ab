import torch
from torch.testing import assert_close

from hybrid_dense.layers.norm import LayerNorm2d


@torch.no_grad()
def test_each_position_is_normalised_over_its_channels():
    torch.manual_seed(0)
    norm = LayerNorm2d(16, eps=1e-6)
    norm.weight.normal_()
    norm.bias.normal_()
    features = 3 * torch.randn(2, 16, 3, 5) + 1
    mean, variance = features.mean(1, keepdim=True), features.var(1, keepdim=True, unbiased=False)
    expected = (features - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert_close(norm(features), expected)


def test_channels_last_maps_stay_channels_last():
    features = torch.randn(2, 16, 3, 5).to(memory_format=torch.channels_last)
    assert LayerNorm2d(16)(features).is_contiguous(memory_format=torch.channels_last)
