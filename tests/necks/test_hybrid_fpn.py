"""HybridFPN: its sizes, what it refuses, and mmdet's FPN and PAFPN as references."""

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
OPTIONS = list(itertools.product([False, True], ["pool", "conv"], [None, "BN", "GN"]))

every_option = pytest.mark.parametrize(("bottom_up", "extra_levels", "norm"), OPTIONS)


def draw_pyramid(size, channels=CHANNELS, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, width, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for width, stride in zip(channels, STRIDES, strict=False)
    ]


def build(in_channels=CHANNELS, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type="HybridFPN", in_channels=in_channels, out_channels=32, **options))


@every_option
@pytest.mark.parametrize("size", [(64, 64), (65, 33), (130, 250), (32, 32)])
@torch.no_grad()
def test_sizes_of_all_levels(size, bottom_up, extra_levels, norm):
    neck = build(num_outs=6, bottom_up=bottom_up, extra_levels=extra_levels, norm=norm).eval()
    expected = [(2, 32, -(-size[0] // stride), -(-size[1] // stride)) for stride in [*STRIDES, 64, 128]]
    assert [tuple(level.shape) for level in neck(draw_pyramid(size))] == expected


@every_option
def test_gradients_reach_all_parameters_and_inputs(bottom_up, extra_levels, norm):
    neck = build(num_outs=6, bottom_up=bottom_up, extra_levels=extra_levels, norm=norm)
    features = [level.requires_grad_() for level in draw_pyramid((130, 97))]
    sum((level * torch.randn_like(level)).sum() for level in neck(features)).backward()
    assert [name for name, tensor in neck.named_parameters() if tensor.grad is None or not tensor.grad.any()] == []
    assert all(level.grad.any() for level in features)


@every_option
def test_normalisation_follows_every_convolution(bottom_up, extra_levels, norm):
    neck = build(num_outs=6, bottom_up=bottom_up, extra_levels=extra_levels, norm=norm)
    kinds = [type(module).__name__ for module in neck.modules() if not list(module.children())]
    convolutions = 8 + 6 * bottom_up + 2 * (extra_levels == "conv")
    assert kinds.count("Conv2d") == convolutions
    assert kinds.count("BatchNorm2d") == convolutions * (norm == "BN")
    assert kinds.count("GroupNorm") == convolutions * (norm == "GN")


def copy_weights(neck, reference):
    pairs = [
        (neck.laterals, "lateral_convs"),
        ([*neck.outputs, *(extra for extra in neck.extras if not isinstance(extra, torch.nn.MaxPool2d))], "fpn_convs"),
        (neck.downs, "downsample_convs"),
        (neck.refines, "pafpn_convs"),
    ]
    state = {}
    for ours, theirs in pairs:
        for index, module in enumerate(ours):
            torch.nn.init.normal_(module[0].bias)
            state[f"{theirs}.{index}.conv.weight"] = module[0].weight
            state[f"{theirs}.{index}.conv.bias"] = module[0].bias
    reference.load_state_dict(state, strict=True)
    return reference


def assert_same(neck, reference, features):
    with torch.no_grad():
        for ours, theirs in zip(neck(features), reference(features), strict=True):
            assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 128), (65, 130), (33, 250)])
@pytest.mark.parametrize(("extra_levels", "add_extra_convs"), [("pool", False), ("conv", "on_output")])
def test_equals_the_fpn_of_mmdet(extra_levels, add_extra_convs, size):
    neck = build(num_outs=6, extra_levels=extra_levels)
    reference = FPN(CHANNELS, out_channels=32, num_outs=6, add_extra_convs=add_extra_convs)
    assert_same(neck, copy_weights(neck, reference), draw_pyramid(size))


@pytest.mark.parametrize("size", [(64, 128), (65, 130)])
def test_equals_the_pafpn_of_mmdet_over_two_levels(size):
    """Over more they differ: mmdet feeds the unrefined sum on, the paper's figure 1 and ours the refined one."""
    neck = build(CHANNELS[:2], num_outs=3, bottom_up=True)
    reference = copy_weights(neck, PAFPN(CHANNELS[:2], out_channels=32, num_outs=3))
    assert_same(neck, reference, draw_pyramid(size)[:2])


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


def test_the_callers_features_stay_as_they_were():
    features = draw_pyramid((64, 64))
    copies = [level.clone() for level in features]
    build()(features)
    assert all(torch.equal(level, copied) for level, copied in zip(features, copies, strict=True))


def test_a_mismatch_of_channels_names_the_levels():
    with pytest.raises(ValueError) as caught:
        build()(draw_pyramid((64, 64), channels=[8, 16, 25, 32]))
    message = str(caught.value)
    assert "in_channels [8, 16, 24, 32]" in message
    assert "C2: 8, C3: 16, C4: 25, C5: 32" in message
    assert "\n" not in message


def test_a_missing_level_is_named():
    with pytest.raises(ValueError, match=r"in_channels \[8, 16, 24, 32\] but gets C2: 8, C3: 16, C4: 24$"):
        build()(draw_pyramid((64, 64))[:3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_outs=3), ["num_outs 3", "4 input levels"]),
        (dict(extra_levels="learn"), ["'learn'", "'pool'", "'conv'"]),
        (dict(norm="LN"), ["'LN'", "None", "'BN'", "'GN'"]),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ValueError) as caught:
        build(**options)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
