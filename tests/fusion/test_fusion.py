"""What each rule computes, and that a stranger's rule of a few lines is as good as ours."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion import AddFusion, Fusion, GatedFusion, build_fusion, list_fusions
from hybrid_dense.fusion.base import DIRECTIONS, Bridge

CONV, GRID = FeatureSpec(channels=32, stride=8), FeatureSpec(channels=48, stride=16)
RULES = [rule for rule in list_fusions() if rule != "IdentityFusion"]
POINTWISE = ["AddFusion", "GatedFusion"]


def draw_streams():
    """The two streams of an image of 56 × 104 pixels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 32, 7, 13, generator=generator), torch.randn(2, 48, 4, 7, generator=generator)


def build(rule, direction="both", conv=CONV):
    """A rule whose weights all differ from their start."""
    torch.manual_seed(0)
    fusion = build_fusion(dict(type=rule, direction=direction), conv, GRID).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return fusion


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_direction_says_which_stream_changes(rule):
    conv, grid = draw_streams()
    changed = {
        direction: tuple(
            not torch.equal(after, before)
            for after, before in zip(build(rule, direction)(conv, grid), (conv, grid), strict=True)
        )
        for direction in DIRECTIONS
    }
    assert changed == {"both": (True, True), "to_cnn": (True, False), "to_vit": (False, True)}


@pytest.mark.parametrize("rule", list_fusions())
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@torch.no_grad()
def test_streams_keep_their_shapes_at_every_stage(rule, stride):
    fusion = build(rule, conv=FeatureSpec(32, stride))
    for height, width in [(32, 32), (33, 65), (250, 40)]:
        conv = torch.randn(1, 32, -(-height // stride), -(-width // stride))
        grid = torch.randn(1, 48, -(-height // 16), -(-width // 16))
        assert [stream.shape for stream in fusion(conv, grid)] == [conv.shape, grid.shape]


@pytest.mark.parametrize("rule", list_fusions())
@torch.no_grad()
def test_both_bridges_read_the_streams_as_they_came_in(rule):
    conv, grid = draw_streams()
    fusion = build(rule)
    before = conv.clone(), grid.clone()
    fused_conv, fused_grid = fusion(conv, grid)
    assert torch.equal(conv, before[0]), "the caller's map was overwritten"
    assert torch.equal(grid, before[1]), "the caller's grid was overwritten"
    assert torch.equal(fused_conv, fusion.to_cnn(conv, grid))
    assert torch.equal(fused_grid, fusion.to_vit(grid, conv))


@pytest.mark.parametrize("rule", POINTWISE)
@torch.no_grad()
def test_a_message_lands_where_it_came_from(rule):
    """A change in one token reaches the CNN's map around it and nowhere else, and the other way round."""
    conv, grid = draw_streams()
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


@torch.no_grad()
def test_add_is_the_target_plus_a_projection_of_the_normalised_source():
    conv, grid = draw_streams()
    carry = build("AddFusion", conv=FeatureSpec(32, 16)).to_cnn.carry
    conv = conv[:, :, :4, :7]
    normalised = (grid - grid.mean(1, keepdim=True)) / grid.std(1, keepdim=True, unbiased=False)
    normalised = normalised * carry.norm.weight[:, None, None] + carry.norm.bias[:, None, None]
    message = torch.einsum("oc,bchw->bohw", carry.project.weight[..., 0, 0], normalised)
    expected = conv + message + carry.project.bias[:, None, None]
    fused, _ = build("AddFusion", conv=FeatureSpec(32, 16))(conv, grid)
    assert_close(fused, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_hook_reads_the_gates():
    conv, grid = draw_streams()
    fusion = build("GatedFusion")
    gates = {}
    for name in ("to_cnn", "to_vit"):
        bridge = getattr(fusion, name)
        bridge.gate.register_forward_hook(lambda module, inputs, gate, name=name: gates.update({name: gate}))
    fused_conv, fused_grid = fusion(conv, grid)
    assert gates["to_cnn"].shape == conv.shape
    assert gates["to_vit"].shape == grid.shape
    for gate in gates.values():
        assert gate.min() > 0
        assert gate.max() < 1
        assert gate.std() > 0.01, "the gate does not look at the streams"
    # What the hook shows is what weighs the message.
    for fused, stream, source, bridge, name in [
        (fused_conv, conv, grid, fusion.to_cnn, "to_cnn"),
        (fused_grid, grid, conv, fusion.to_vit, "to_vit"),
    ]:
        assert_close(fused, stream + gates[name] * bridge.carry(source, stream.shape[-2:]))


@torch.no_grad()
def test_the_gate_looks_at_both_streams():
    conv, grid = draw_streams()
    fusion, gates = build("GatedFusion"), []
    fusion.to_cnn.gate.register_forward_hook(lambda module, inputs, gate: gates.append(gate))
    for streams in [(conv, grid), (conv + torch.randn_like(conv), grid), (conv, torch.randn_like(grid))]:
        fusion(*streams)
    assert not torch.allclose(gates[0], gates[1], atol=1e-3)
    assert not torch.allclose(gates[0], gates[2], atol=1e-3)


def test_identity_has_no_parameters():
    assert not list(build_fusion(dict(type="IdentityFusion"), CONV, GRID).parameters())


@pytest.mark.parametrize("rule", RULES)
def test_the_way_into_the_cnn_opens_at_zero_and_the_way_into_the_vit_nearly(rule):
    torch.manual_seed(0)
    fusion = build_fusion(dict(type=rule), CONV, GRID)
    conv, grid = draw_streams()
    with torch.no_grad():
        fused_conv, fused_grid = fusion(conv, grid)
    assert torch.equal(fused_conv, conv)
    assert 0 < (fused_grid - grid).abs().max() < 0.1


@pytest.fixture
def strangers_rule():
    """A rule as another package would write it."""

    class PositiveBridge(Bridge):
        def forward(self, target, source):
            return target + self.carry(source, target.shape[-2:]).relu()

    @MODELS.register_module()
    class PositiveFusion(Fusion):
        bridge = PositiveBridge

    yield PositiveFusion
    MODELS.module_dict.pop("PositiveFusion")


def test_a_strangers_rule_works_by_name(strangers_rule):
    assert "PositiveFusion" in hybrid_dense.list_fusions()
    torch.manual_seed(0)
    fusion = dict(type="PositiveFusion", direction="to_cnn")
    backbone = MODELS.build(
        dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=fusion, fusion_stages="late")
    ).eval()
    assert [isinstance(rule, strangers_rule) for rule in backbone.fusions] == [False, False, True, True]
    images = torch.randn(1, 3, 65, 40)
    with torch.no_grad():
        for hybrid, alone in zip(backbone(images), backbone.cnn(images), strict=True):
            assert torch.equal(hybrid, alone)
        for parameter in backbone.fusions.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        changed = [
            not torch.equal(hybrid, alone) for hybrid, alone in zip(backbone(images), backbone.cnn(images), strict=True)
        ]
    assert changed == [False, False, True, True]


def test_ours_are_listed():
    assert {"AddFusion", "GatedFusion", "IdentityFusion"} <= set(list_fusions())
    assert "Fusion" not in list_fusions()
    assert "HybridFPN" not in list_fusions()
    assert MODELS.get("AddFusion") is AddFusion
    assert MODELS.get("GatedFusion") is GatedFusion


@pytest.mark.parametrize("rule", list_fusions())
def test_wrong_direction_names_the_right_ones(rule):
    with pytest.raises(ValueError, match=r"fusion direction 'cnn' is not one of both, to_cnn, to_vit"):
        build_fusion(dict(type=rule, direction="cnn"), CONV, GRID)
