"""The two halves alone, in place of a hybrid."""

import pytest
import torch
from mmengine.registry import MODELS

from hybrid_dense.trunks import ViT

NANO = "rxnano_vit_pico"
CHANNELS = {"PlainResNeXt": (64, 128, 256, 512), "PlainViT": (24, 48, 96, 96)}
every_half = pytest.mark.parametrize("name", CHANNELS)


def build(name, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(dict(type=name, variant=NANO), **options))


@every_half
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (67, 129), (40, 250)])
@torch.no_grad()
def test_four_maps_of_the_promised_shapes(name, size):
    backbone = build(name).eval()
    assert backbone.out_channels == CHANNELS[name]
    assert backbone.strides == (4, 8, 16, 32)
    shapes = [tuple(level.shape) for level in backbone(torch.randn(2, 3, *size))]
    expected = zip(CHANNELS[name], backbone.strides, strict=True)
    assert shapes == [(2, c, -(-size[0] // stride), -(-size[1] // stride)) for c, stride in expected]


@every_half
def test_a_comparison_changes_the_type_alone(name):
    """What a hybrid's config says of the other half and of the fusion does no harm."""
    options = dict(
        fusion=dict(type="CrossAttentionFusion", direction="to_cnn"),
        fusion_stages="late",
        attend_in="bottleneck",
        window=7,
        drop_path_rate=0.1,
        frozen_stages=1,
        norm_eval=True,
        with_cp=True,
    )
    backbone = build(name, **options)
    maps = backbone(torch.randn(2, 3, 64, 64))
    sum(level.square().mean() for level in maps).backward()
    idle = [key for key, value in backbone.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle
    with pytest.raises(TypeError, match="did you mean 'window'"):
        build(name, widnow=7)
    with pytest.raises(ValueError, match="unknown fusion"):
        build(name, fusion=dict(type="NoFusion"))


@torch.no_grad()
def test_the_cnn_alone_is_that_of_every_hybrid():
    alone = build("PlainResNeXt").eval()
    hybrid = build("ParallelResNeXtViT").eval()
    hybrid.cnn.load_state_dict(alone.cnn.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    for level, other in zip(alone(images), hybrid(images), strict=True):
        assert torch.equal(level, other)


@torch.no_grad()
def test_the_vit_alone_hands_on_its_grid_at_stride_16_and_its_maximum_at_32():
    backbone = build("PlainViT").eval()
    assert isinstance(backbone.vit, ViT)
    images = torch.randn(1, 3, 96, 160)
    grid, maps = backbone.vit(images), backbone(images)
    assert torch.equal(maps[2], grid)
    assert torch.equal(maps[3][..., 0, 0], grid[..., :2, :2].amax(dim=(2, 3)))


@torch.no_grad()
def test_maps_of_the_vit_lie_where_their_pixels_are():
    """A patch of the image moves the cells over it in every map, and with windows of one token no other."""
    backbone = build("PlainViT", window=1, global_attention="none").eval()
    images = torch.randn(1, 3, 96, 160)
    other = images.clone()
    other[..., 48:64, 32:48] += 1.0
    for level, changed, stride in zip(backbone(images), backbone(other), backbone.strides, strict=True):
        moved = (level - changed).abs().amax(dim=(0, 1)) > 1e-6
        inside = torch.zeros_like(moved)
        inside[48 // stride : -(-64 // stride), 32 // stride : -(-48 // stride)] = True
        assert moved.any()
        assert not moved[~inside].any()


@every_half
def test_checkpointing_changes_no_gradient(name):
    gradients = []
    for with_cp in (False, True):
        backbone = build(name, with_cp=with_cp).train()
        sum(level.square().mean() for level in backbone(torch.ones(2, 3, 64, 64))).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
