"""What every rule promises, whatever it computes."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from hybrid_dense.analysis.complexity import count_flops
from hybrid_dense.archs import FeatureSpec, parse_variant
from hybrid_dense.fusion import build_fusion, list_fusions
from hybrid_dense.fusion.base import DIRECTIONS

CONV, GRID = FeatureSpec(channels=32, stride=8), FeatureSpec(channels=48, stride=16)
OURS = [
    "AddFusion",
    "ChannelAttentionFusion",
    "ConcatFusion",
    "CrossAttentionFusion",
    "DeformableFusion",
    "GatedFusion",
    "IdentityFusion",
]
RULES = [rule for rule in list_fusions() if rule != "IdentityFusion"]
POINTWISE = ["AddFusion", "ConcatFusion", "GatedFusion"]

every_rule = pytest.mark.parametrize("rule", RULES)


def draw(conv, height, width, batch=2):
    """Both streams of images of this size, the CNN's one with these channels and this stride."""
    return tuple(
        torch.randn(batch, spec.channels, -(-height // spec.stride), -(-width // spec.stride)) for spec in (conv, GRID)
    )


@every_rule
@torch.no_grad()
def test_direction_says_which_stream_changes(rule, build, streams):
    changed = {
        direction: tuple(
            not torch.equal(after, before)
            for after, before in zip(build(rule, direction)(*streams), streams, strict=True)
        )
        for direction in DIRECTIONS
    }
    assert changed == {"both": (True, True), "to_cnn": (True, False), "to_vit": (False, True)}


@pytest.mark.parametrize("rule", list_fusions())
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@torch.no_grad()
def test_streams_keep_their_shapes_at_every_stage(rule, stride, build):
    fusion = build(rule, conv=FeatureSpec(32, stride))
    for height, width in [(32, 32), (33, 65), (250, 40)]:
        conv, grid = draw(FeatureSpec(32, stride), height, width, batch=1)
        assert [stream.shape for stream in fusion(conv, grid)] == [conv.shape, grid.shape]


@pytest.mark.parametrize("channels", [(8, 48), (40, 50), (32, 7)])
@every_rule
@torch.no_grad()
def test_any_number_of_channels_will_do(rule, channels, build):
    conv, grid = (FeatureSpec(count, 16) for count in channels)
    streams = torch.randn(1, channels[0], 3, 5), torch.randn(1, channels[1], 3, 5)
    fused = build(rule, conv=conv, grid=grid)(*streams)
    assert [stream.shape for stream in fused] == [stream.shape for stream in streams]


@pytest.mark.parametrize("rule", list_fusions())
@torch.no_grad()
def test_both_bridges_read_the_streams_as_they_came_in(rule, build, streams):
    conv, grid = streams
    fusion = build(rule)
    before = conv.clone(), grid.clone()
    fused_conv, fused_grid = fusion(conv, grid)
    assert torch.equal(conv, before[0]), "the caller's map was overwritten"
    assert torch.equal(grid, before[1]), "the caller's grid was overwritten"
    assert torch.equal(fused_conv, fusion.to_cnn(conv, grid))
    assert torch.equal(fused_grid, fusion.to_vit(grid, conv))


@every_rule
@torch.no_grad()
def test_an_image_does_not_see_its_batch(rule, build, streams):
    fusion = build(rule)
    parts = [fusion(*(stream[index : index + 1] for stream in streams)) for index in range(2)]
    for whole, single in zip(fusion(*streams), zip(*parts, strict=True), strict=True):
        assert_close(whole, torch.cat(single), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", POINTWISE)
@torch.no_grad()
def test_a_message_lands_where_it_came_from(rule, build, streams):
    """A change in one token reaches the CNN's map around it and nowhere else, and the other way round."""
    conv, grid = streams
    fusion = build(rule)
    other_conv, other_grid = conv.clone(), grid.clone()
    other_conv[:, :, 6, 2] += torch.randn(32)
    other_grid[:, :, 2, 5] += torch.randn(48)

    def changed(one, two):
        return set(map(tuple, (one - two).abs().amax(dim=(0, 1)).nonzero().tolist()))

    into_conv = changed(fusion(conv, grid)[0], fusion(conv, other_grid)[0])
    into_grid = changed(fusion(conv, grid)[1], fusion(other_conv, grid)[1])
    # Token (2, 5) covers cells (4..5, 10..11); bilinear interpolation spreads it by one cell.
    assert {(4, 10), (4, 11), (5, 10), (5, 11)} <= into_conv
    assert into_conv <= {(row, column) for row in range(3, 7) for column in range(9, 13)}
    assert into_grid == {(3, 1)}


@every_rule
def test_the_way_into_the_cnn_opens_at_zero_and_the_way_into_the_vit_nearly(rule, streams):
    torch.manual_seed(0)
    fusion = build_fusion(dict(type=rule), CONV, GRID)
    conv, grid = streams
    with torch.no_grad():
        fused_conv, fused_grid = fusion(conv, grid)
    assert torch.equal(fused_conv, conv)
    assert 0 < (fused_grid - grid).abs().max() < 0.1


@pytest.mark.parametrize("stride", [4, 16, 32])
@pytest.mark.parametrize("direction", DIRECTIONS)
@every_rule
def test_every_parameter_learns_within_two_steps(rule, direction, stride):
    torch.manual_seed(0)
    conv = FeatureSpec(32, stride)
    fusion = build_fusion(dict(type=rule, direction=direction), conv, GRID)
    streams = draw(conv, 65, 130)
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    idle = {name for name, _ in fusion.named_parameters()}
    for step in (1, 2):
        optimizer.zero_grad(set_to_none=True)
        sum((stream * torch.randn_like(stream)).sum() for stream in fusion(*streams)).backward()
        assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == [], f"step {step}"
        idle -= {name for name, parameter in fusion.named_parameters() if parameter.grad.any()}
        optimizer.step()
    assert not idle


@every_rule
def test_gradients_into_both_streams_are_those_of_finite_differences(rule, build, streams):
    fusion = build(rule).double()
    streams = [stream[:1].double().requires_grad_() for stream in streams]
    assert torch.autograd.gradcheck(lambda *streams: fusion(*streams), streams, fast_mode=True)


@every_rule
def test_recomputing_gives_the_same_gradients(rule, build, streams):
    fusion = build(rule)
    gradients = []
    for call in (fusion, lambda *streams: checkpoint(fusion, *streams, use_reentrant=False)):
        fusion.zero_grad()
        sum(stream.square().sum() for stream in call(*streams)).backward()
        gradients.append([parameter.grad.clone() for parameter in fusion.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@every_rule
@torch.no_grad()
def test_a_rule_is_one_graph(rule, build, streams):
    fusion = build(rule)
    torch._dynamo.reset()
    compiled = torch.compile(fusion, backend="eager", fullgraph=True)
    for plain, traced in zip(fusion(*streams), compiled(*streams), strict=True):
        assert_close(plain, traced, rtol=1e-6, atol=1e-6)


@every_rule
@torch.no_grad()
def test_bfloat16_changes_little(rule, build):
    fusion = build(rule)
    torch.manual_seed(1)
    streams = draw(CONV, 40, 56, batch=1)
    exact = fusion(*streams)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fusion(*streams)
    for precise, coarse, stream in zip(exact, rounded, streams, strict=True):
        assert_close(coarse.float(), precise, rtol=0, atol=0.05 * (precise - stream).abs().max().item() + 0.02)


@every_rule
@torch.no_grad()
def test_the_memory_layout_stays(rule, build, streams):
    fusion = build(rule).to(memory_format=torch.channels_last)
    streams = [stream.contiguous(memory_format=torch.channels_last) for stream in streams]
    for stream in fusion(*streams):
        assert stream.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@every_rule
def test_cost_is_linear_in_pixels(rule, stage):
    cnn, vit = parse_variant("rx50_vit_s")
    conv, grid = cnn.features[stage - 1], vit.features
    with torch.device("meta"):
        fusion = build_fusion(dict(type=rule), conv, grid)
        costs = []
        for side in (512, 1024):
            streams = [torch.empty(1, spec.channels, side // spec.stride, side // spec.stride) for spec in (conv, grid)]
            costs.append(count_flops(lambda streams=streams: fusion(*streams)))
    # The means that channel attention works on cost the same at any size.
    assert 3.5 < costs[1] / costs[0] <= 4.3


def test_identity_has_no_parameters_and_passes_what_it_gets(streams):
    fusion = build_fusion(dict(type="IdentityFusion"), CONV, GRID)
    assert not list(fusion.parameters())
    assert all(after is before for after, before in zip(fusion(*streams), streams, strict=True))


def test_ours_are_listed():
    assert set(OURS) <= set(list_fusions())
    assert "Fusion" not in list_fusions()
    assert "HybridFPN" not in list_fusions()
    for rule in OURS:
        assert MODELS.get(rule).__name__ == rule
        assert MODELS.get(rule).__doc__, "a rule says where it comes from and what it costs"


@pytest.mark.parametrize("rule", list_fusions())
def test_wrong_direction_names_the_right_ones(rule):
    with pytest.raises(ValueError, match=r"fusion direction 'cnn' is not one of both, to_cnn, to_vit"):
        build_fusion(dict(type=rule, direction="cnn"), CONV, GRID)
