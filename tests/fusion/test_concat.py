"""ConcatFusion is a 1×1 convolution of both streams stacked, though nothing is stacked."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hybrid_dense.archs import FeatureSpec


@torch.no_grad()
def test_it_is_a_convolution_of_both_streams_stacked(build, streams, normalise, convolve):
    conv, grid = streams[0][:, :, :4, :7], streams[1]
    fusion = build("ConcatFusion", conv=FeatureSpec(32, 16))
    for fused, target, source, bridge in zip(
        fusion(conv, grid), (conv, grid), (grid, conv), (fusion.to_cnn, fusion.to_vit), strict=True
    ):
        own, other = bridge.reduce, bridge.carry.project
        stacked = torch.cat((normalise(bridge.norm, target), normalise(bridge.carry.norm, source)), dim=1)
        hidden = F.conv2d(stacked, torch.cat((own.weight, other.weight), dim=1), own.bias + other.bias)
        assert hidden.shape[1] == 32, "as wide as the narrower stream"
        assert_close(fused, target + convolve(bridge.project, F.gelu(hidden)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_streams_meet_before_the_nonlinearity(build, streams):
    """What a change of one stream does depends on the other one; in a plain sum it would not."""
    conv, grid = streams
    bridge = build("ConcatFusion").to_cnn
    other = torch.randn_like(conv)

    def message(target, source):
        return bridge(target, source) - target

    effects = [message(target, grid) - message(target, grid.roll(1, dims=1)) for target in (conv, other)]
    assert (effects[0] - effects[1]).abs().max() > 0.1
