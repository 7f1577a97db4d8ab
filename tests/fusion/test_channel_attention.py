"""ChannelAttentionFusion scales whole channels, image by image, by what both streams hold on average."""

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.archs import FeatureSpec


@torch.no_grad()
def test_it_is_squeeze_and_excitation_of_both_means(build, streams, normalise, convolve):
    conv, grid = streams[0][:, :, :4, :7], streams[1]
    fusion = build("ChannelAttentionFusion", conv=FeatureSpec(32, 16))
    for fused, target, source, bridge in zip(
        fusion(conv, grid), (conv, grid), (grid, conv), (fusion.to_cnn, fusion.to_vit), strict=True
    ):
        joint = 0
        for (norm, project), stream in [(bridge.squeeze_target, target), (bridge.squeeze_source, source)]:
            means = stream.flatten(2).sum(dim=2) / 28
            joint = joint + convolve(project, normalise(norm, means[:, :, None, None]))
        joint = joint.clamp(min=0)
        scale = 2 / (1 + (-convolve(bridge.excite_target, joint)).exp())
        admit = 1 / (1 + (-convolve(bridge.excite_message, joint)).exp())
        assert scale.shape == admit.shape == (*target.shape[:2], 1, 1)
        message = convolve(bridge.carry.project, normalise(bridge.carry.norm, source))
        assert_close(fused, scale * target + admit * message, rtol=1e-4, atol=1e-4)


@pytest.fixture
def silent(build):
    """The way into the CNN without its message: what remains is the target times its scales."""
    bridge = build("ChannelAttentionFusion").to_cnn
    with torch.no_grad():
        bridge.carry.project.weight.zero_()
        bridge.carry.project.bias.zero_()
    return bridge


@torch.no_grad()
def test_scales_are_one_number_an_image_and_channel(silent, streams):
    conv, grid = streams
    scale = silent(conv, grid) / conv
    assert_close(scale, scale.mean(dim=(2, 3), keepdim=True).expand_as(scale), rtol=1e-4, atol=1e-4)
    scale = scale.mean(dim=(2, 3))
    assert scale.min() > 0
    assert scale.max() < 2
    assert scale.std(dim=0).min() > 1e-4, "every image has its own"
    assert scale.std(dim=1).min() > 0.01, "every channel has its own"


@torch.no_grad()
def test_either_stream_moves_the_scales(silent, streams):
    conv, grid = streams
    scale = silent(conv, grid) / conv
    assert (silent(conv, grid + torch.randn(48, 1, 1)) / conv - scale).abs().max() > 0.01
    other = conv + torch.randn(32, 1, 1)
    assert (silent(other, grid) / other - scale).abs().max() > 0.01
    # Only the means count, not where in the image a value stands.
    assert_close(silent(conv, grid.flip(2, 3)), silent(conv, grid), rtol=1e-4, atol=1e-4)
