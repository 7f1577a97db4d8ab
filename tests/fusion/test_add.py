"""AddFusion adds a projection of the normalised other stream."""

import torch
from torch.testing import assert_close

from hybrid_dense.archs import FeatureSpec


@torch.no_grad()
def test_it_is_the_target_plus_a_projection_of_the_normalised_source(build, streams, normalise, convolve):
    conv, grid = streams[0][:, :, :4, :7], streams[1]
    fusion = build("AddFusion", conv=FeatureSpec(32, 16))
    fused_conv, fused_grid = fusion(conv, grid)
    for fused, target, source, bridge in [
        (fused_conv, conv, grid, fusion.to_cnn),
        (fused_grid, grid, conv, fusion.to_vit),
    ]:
        message = convolve(bridge.carry.project, normalise(bridge.carry.norm, source))
        assert_close(fused, target + message, rtol=1e-4, atol=1e-4)
