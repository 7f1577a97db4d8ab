"""Maps leave in the layout that the hosts' compiled operators read.

Channels_last ones would be misread without an error.
"""

import pytest
import torch
from mmcv.ops import RoIAlign
from mmengine.registry import MODELS

import hybrid_dense


def hybrid(topology: str) -> torch.nn.Module:
    return MODELS.build(dict(type=topology, variant="rxnano_vit_pico")).eval()


def neck() -> torch.nn.Module:
    return MODELS.build(dict(type="HybridFPN", in_channels=[8, 8, 8, 8], out_channels=8))


CHANNELS_LAST = [torch.randn(1, 8, size, size).contiguous(memory_format=torch.channels_last) for size in (32, 16, 8, 4)]


@pytest.mark.parametrize("topology", hybrid_dense.list_topologies())
def test_roi_align_reads_a_backbones_maps_as_they_are_meant(topology):
    maps = hybrid(topology)(torch.randn(1, 3, 128, 128).contiguous(memory_format=torch.channels_last))
    for features in maps:
        assert_read_as_meant(features.detach())


@pytest.mark.parametrize("channels_last_weights", [False, True])
def test_roi_align_reads_a_necks_maps_as_they_are_meant(channels_last_weights):
    pyramid = neck()
    if channels_last_weights:
        pyramid.to(memory_format=torch.channels_last)
    for features in pyramid(CHANNELS_LAST):
        assert_read_as_meant(features.detach())


def test_the_operator_does_misread_channels_last():
    """The reason for all this; when it fails, the layout is free again."""
    with pytest.raises(AssertionError):
        assert_read_as_meant(CHANNELS_LAST[0])


def assert_read_as_meant(features: torch.Tensor) -> None:
    """RoIAlign sampled at one pixel gives that pixel's channels."""
    rois = torch.tensor([[0.0, 1.0, 1.0, 2.0, 2.0]])
    if min(features.shape[-2:]) < 3:
        assert features.is_contiguous()
        return
    aligned = RoIAlign(output_size=1, spatial_scale=1.0, sampling_ratio=1, aligned=True)(features, rois)
    torch.testing.assert_close(aligned[:, :, 0, 0], features[:, :, 1, 1])
