"""HybridFPN against mmdet's FPN and PAFPN, and its own parts against what their papers write."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import FPN, PAFPN
from mmengine.registry import MODELS
from torch.testing import assert_close

from hybrid_dense.necks import HybridFPN

CHANNELS = [8, 16, 24, 32]
STRIDES = [4, 8, 16, 32]
OPTIONS = list(itertools.product([False, True], ["pool", "conv"], [None, "BN", "GN", "LN"]))

EXTRA_CONVS = {"pool": False, "conv": "on_output", "conv_on_input": "on_input"}
"""Our names for the levels beyond the inputs, and mmdet's."""

every_option = pytest.mark.parametrize(("bottom_up", "extra_levels", "norm"), OPTIONS)


def draw_pyramid(size, channels=CHANNELS, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, width, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for width, stride in zip(channels, STRIDES, strict=False)
    ]


def build(in_channels=CHANNELS, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(dict(type="HybridFPN", in_channels=in_channels, out_channels=32), **options))


@every_option
def test_normalisation_follows_every_convolution(bottom_up, extra_levels, norm):
    neck = build(num_outs=6, bottom_up=bottom_up, extra_levels=extra_levels, norm=norm)
    kinds = [type(module).__name__ for module in neck.modules() if not list(module.children())]
    convolutions = 8 + 6 * bottom_up + 2 * (extra_levels == "conv")
    assert kinds.count("Conv2d") == convolutions
    assert kinds.count("BatchNorm2d") == convolutions * (norm == "BN")
    assert kinds.count("GroupNorm") == convolutions * (norm == "GN")
    assert kinds.count("LayerNorm2d") == convolutions * (norm == "LN")


def copy_weights(neck, reference):
    pairs = [
        (neck.laterals, "lateral_convs"),
        ([*neck.outputs, *neck.extras], "fpn_convs"),
        (neck.downs, "downsample_convs"),
        (neck.refines, "pafpn_convs"),
    ]
    state = {}
    for ours, theirs in pairs:
        convolutions = [part for module in ours for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
        for index, conv in enumerate(convolutions):
            torch.nn.init.normal_(conv.bias)
            state[f"{theirs}.{index}.conv.weight"] = conv.weight
            state[f"{theirs}.{index}.conv.bias"] = conv.bias
    reference.load_state_dict(state, strict=True)
    return reference


def assert_same(neck, reference, features):
    with torch.no_grad():
        for ours, theirs in zip(neck(features), reference(features), strict=True):
            assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 128), (65, 130), (33, 250)])
@pytest.mark.parametrize("start_level", [0, 1, 3])
@pytest.mark.parametrize("extra_levels", EXTRA_CONVS)
def test_equals_the_fpn_of_mmdet(extra_levels, start_level, size):
    options = dict(out_channels=32, num_outs=6, start_level=start_level)
    neck = build(extra_levels=extra_levels, **options)
    # Which ReLU the RetinaNet paper has (section 4), and mmdet for FCOS only.
    reference = FPN(CHANNELS, add_extra_convs=EXTRA_CONVS[extra_levels], relu_before_extra_convs=True, **options)
    assert_same(neck, copy_weights(neck, reference), draw_pyramid(size))


@pytest.mark.parametrize("size", [(64, 128), (65, 130)])
@pytest.mark.parametrize("extra_levels", EXTRA_CONVS)
def test_equals_the_pafpn_of_mmdet_over_two_levels(extra_levels, size):
    """Over more they differ: mmdet feeds the unrefined sum on, the paper's figure 1 and ours the refined one."""
    options = dict(out_channels=32, num_outs=4, start_level=2)
    neck = build(extra_levels=extra_levels, bottom_up=True, **options)
    reference = PAFPN(CHANNELS, add_extra_convs=EXTRA_CONVS[extra_levels], relu_before_extra_convs=True, **options)
    assert_same(neck, copy_weights(neck, reference), draw_pyramid(size))


@torch.no_grad()
def test_the_bottom_up_path_is_that_of_the_paper():
    """PANet, section 3.1: N2 = P2 and N(i+1) = refine(P(i+1) + down(N(i)))."""
    neck = build(num_outs=4, bottom_up=True)
    features = draw_pyramid((65, 130))
    plain = HybridFPN(CHANNELS, out_channels=32, num_outs=4)
    plain.load_state_dict(neck.state_dict(), strict=False)
    level, expected = None, []
    for index, top_down in enumerate(plain(features)):
        if index == 0:
            level = top_down
        else:
            down, refine = neck.downs[index - 1][0], neck.refines[index - 1][0]
            summed = top_down + F.conv2d(level, down.weight, down.bias, stride=2, padding=1)
            level = F.conv2d(summed, refine.weight, refine.bias, padding=1)
        expected.append(level)
    for ours, theirs in zip(neck(features), expected, strict=True):
        assert_close(ours, theirs)


@torch.no_grad()
def test_a_depthwise_convolution_is_one_filter_a_channel_and_a_matrix():
    neck = build(num_outs=6, conv="depthwise", bottom_up=True, extra_levels="conv")
    features = draw_pyramid((65, 130))
    plain = build(num_outs=6, bottom_up=True, extra_levels="conv")
    separable = [*neck.outputs, *neck.downs, *neck.refines, neck.extras[0], neck.extras[1][1:]]
    for pair, conv in zip(separable, [*plain.outputs, *plain.downs, *plain.refines, *plain.extras], strict=True):
        filters, matrix = pair
        assert filters.weight.shape == (32, 1, 3, 3) and filters.bias is None
        assert filters.stride == conv[-1].stride
        # The rank-one kernel that both together are.
        conv[-1].weight.copy_(matrix.weight * filters.weight.squeeze(1))
        conv[-1].bias.copy_(matrix.bias.normal_())
    plain.laterals.load_state_dict(neck.laterals.state_dict())
    for ours, expected in zip(neck(features), plain(features), strict=True):
        assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_starts_as_loud_as_a_full_one():
    loudness = {}
    for conv in ("full", "depthwise"):
        neck = build([256], num_outs=1, out_channels=256, conv=conv)
        loudness[conv] = neck.outputs[0](torch.randn(1, 256, 16, 16)).std().item()
    assert 0.7 < loudness["depthwise"] / loudness["full"] < 1.4


def gated(gates, level, other):
    """GFF for two levels: (1 + G) X + (1 − G) (G' X')."""
    opened = []
    for gate, features in zip((gates.level_gate, gates.other_gate), (level, other), strict=True):
        conv = gate[0]
        opened.append(torch.sigmoid((features * conv.weight.reshape(1, -1, 1, 1)).sum(1, keepdim=True) + conv.bias))
    return (1 + opened[0]) * level + (1 - opened[0]) * (opened[1] * other)


@torch.no_grad()
def test_gates_weigh_both_levels_at_every_position():
    neck = build(num_outs=4, merge="gate", bottom_up=True)
    features = draw_pyramid((65, 130))
    for parameter in [*neck.top_down_merges.parameters(), *neck.bottom_up_merges.parameters()]:
        parameter.normal_(std=0.3)
    levels = [lateral(level) for lateral, level in zip(neck.laterals, features, strict=True)]
    for fine in (2, 1, 0):
        coarse = levels[fine + 1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        height, width = levels[fine].shape[-2:]
        levels[fine] = gated(neck.top_down_merges[fine], levels[fine], coarse[..., :height, :width])
    levels = [output(level) for output, level in zip(neck.outputs, levels, strict=True)]
    for fine in (0, 1, 2):
        detail = neck.downs[fine](levels[fine])
        levels[fine + 1] = neck.refines[fine](gated(neck.bottom_up_merges[fine], levels[fine + 1], detail))
    for ours, expected in zip(neck(features), levels, strict=True):
        assert_close(ours, expected)


def test_hooks_read_the_gates():
    neck, seen = build(merge="gate"), []
    neck.top_down_merges[0].level_gate.register_forward_hook(lambda module, inputs, gate: seen.append(gate))
    neck(draw_pyramid((64, 64)))
    assert seen[0].shape == (2, 1, 16, 16)
    assert seen[0].min() > 0 and seen[0].max() < 1


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (32, 16), (48, 8), (30, 1), (7, 1)])
def test_groups_always_divide_the_channels_and_hold_two(channels, groups):
    neck = build([4], num_outs=1, out_channels=channels, norm="GN")
    assert neck.laterals[0][1].num_groups == groups
    # A single cell of a single image: a group of one channel would have no variance, and PyTorch refuses it.
    assert neck(torch.randn(1, 4, 1, 1))[0].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("bottom_up", [False, True])
def test_a_backbone_that_rounds_down(bottom_up):
    neck = build(num_outs=4, bottom_up=bottom_up)
    sizes = [(31, 29), (15, 14), (7, 7), (3, 3)]
    maps = neck([torch.randn(1, width, *size) for width, size in zip(CHANNELS, sizes, strict=True)])
    assert [tuple(level.shape[-2:]) for level in maps] == sizes


@torch.no_grad()
def test_a_dilated_backbone():
    features = draw_pyramid((64, 96))
    features[3] = torch.randn(2, 32, 4, 6)
    for options in (dict(), dict(bottom_up=True)):  # anchors and RoIs would lie at the wrong places, without an error
        with pytest.raises(
            ValueError, match="16×24, 8×12, 4×6, 4×6 cells do not lie at strides 4, 8, 16, 32; set neck"
        ):
            build(**options)(features)
    for neck in (build(strides=[4, 8, 16, 16]), build(bottom_up=True, strides=[4, 8, 16, 16])):
        assert [level.shape[-1] for level in neck(features)] == [24, 12, 6, 6, 3]
    neck = build(bottom_up=True, strides=[4, 8, 16, 16], start_level=1)
    assert [level.shape[-1] for level in neck(features)] == [12, 6, 6, 3, 2]


def test_a_merge_that_there_is_not():
    with pytest.raises(ValueError, match=r"^merge 'sum' is not one of add, gate$"):
        build(merge="sum")


def test_a_misspelt_option_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'botom_up'"):
        build(botom_up=True)
