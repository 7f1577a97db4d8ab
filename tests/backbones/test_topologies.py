"""What each topology does with its parts, beside what the contract suite says of all of them."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.backbones.interleaved import AttentionInPlace, plan_runs
from hybrid_dense.layers.position import resample_positions
from hybrid_dense.layers.resample import to_stride

HYBRIDS = ["GuidedResNeXtViT", "InterleavedResNeXtViT", "ParallelResNeXtViT", "SerialResNeXtViT"]


def build(topology, **options):
    torch.manual_seed(0)
    config = dict(type=topology, variant="rxnano_vit_pico", fusion=dict(type="AddFusion"))
    backbone = MODELS.build(dict(config, **options)).eval()
    with torch.no_grad():
        for parameter in backbone.fusions.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return backbone


def draw_images(height=96, width=160):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_there_are_four():
    assert hybrid_dense.list_topologies() == HYBRIDS


@pytest.mark.parametrize(
    ("topology", "stages", "expected"),
    [
        ("GuidedResNeXtViT", "all", [True, True, True, True]),
        ("GuidedResNeXtViT", "late", [False, False, True, True]),
        ("GuidedResNeXtViT", [2], [False, True, True, True]),
        ("GuidedResNeXtViT", [], [False, False, False, True]),
        ("SerialResNeXtViT", "all", [False, False, True, True]),
        ("SerialResNeXtViT", "early", [False, False, True, True]),
        ("SerialResNeXtViT", [], [False, False, True, True]),
        ("InterleavedResNeXtViT", "all", [True, True, True, True]),
        ("InterleavedResNeXtViT", "early", [True, True, True, True]),
        ("InterleavedResNeXtViT", "late", [False, False, True, True]),
        ("InterleavedResNeXtViT", [3], [False, False, True, True]),
        ("InterleavedResNeXtViT", [], [False, False, False, True]),
    ],
)
@torch.no_grad()
def test_which_maps_the_vit_reaches(topology, stages, expected):
    backbone = build(topology, fusion_stages=stages)
    images = draw_images()
    pairs = zip(backbone(images), backbone.cnn(images), strict=True)
    assert [not torch.equal(hybrid, alone) for hybrid, alone in pairs] == expected


@torch.no_grad()
def test_serial_by_hand():
    backbone = build("SerialResNeXtViT")
    images = draw_images()
    c2 = backbone.cnn.layer1(backbone.cnn.stem(images))
    c3 = backbone.cnn.layer2(c2)
    c4 = backbone.cnn.layer3(c3)
    size = c4.shape[-2:]
    # 1×1: a token is a position of C4.
    positions = backbone.vit.pos_embed.transpose(1, 2).unflatten(2, (14, 14))
    grid = backbone.vit.patch_embed.proj(c4) + resample_positions(positions, size)
    for index, block in enumerate(backbone.vit.blocks):
        tokens = block(grid.flatten(2).transpose(1, 2), tuple(size))
        grid = tokens.transpose(1, 2).unflatten(2, size)
        if index == 3:
            grid = backbone.vit.norm(grid)
        fusion = backbone.fusions[index]
        seen = c4
        c4 = c4 + fusion.to_cnn.carry(grid, size)
        if index < 3:
            grid = grid + fusion.to_vit.carry(seen, size)
    for level, expected in zip(backbone(images), (c2, c3, c4, backbone.cnn.layer4(c4)), strict=True):
        assert_close(level, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_guided_by_hand():
    backbone = build("GuidedResNeXtViT")
    images = draw_images()
    grid, conv = backbone.vit(images), backbone.cnn.stem(images)
    for level, stage, fusion in zip(backbone(images), backbone.cnn.stages, backbone.fusions, strict=True):
        seen = stage(conv)
        conv = seen + fusion.to_cnn.carry(grid, seen.shape[-2:])
        grid = grid if fusion.to_vit is None else grid + fusion.to_vit.carry(seen, grid.shape[-2:])
        assert_close(level, conv, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_interleaved_by_hand():
    backbone = build("InterleavedResNeXtViT")
    images = draw_images()
    grid, conv, stride = backbone.vit.embed(images), backbone.cnn.stem(images), 16
    parts = (backbone.cnn.stages, backbone.vit.segments, backbone.entries, backbone.fusions, backbone.strides)
    for level, stage, segment, entry, fusion, own in zip(backbone(images), *parts, strict=True):
        seen = stage(conv)
        size = seen.shape[-2:]
        grid = segment(to_stride(grid, stride, own, size) + entry.carry(seen, size))
        conv = seen + fusion.to_cnn.carry(grid, size)
        grid = grid if fusion.to_vit is None else grid + fusion.to_vit.carry(seen, size)
        stride = own
        assert_close(level, conv, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "runs"),
    [
        ((1, 2, 3, 4), [[0], [1], [2], [3]]),
        ((1, 2), [[0], [1, 2, 3], [], []]),
        ((3, 4), [[], [], [0, 1, 2], [3]]),
        ((2,), [[], [0, 1, 2, 3], [], []]),
        ((1, 4), [[0], [], [], [1, 2, 3]]),
    ],
)
def test_every_segment_runs_once_behind_a_chosen_stage(stages, runs):
    assert [list(run) for run in plan_runs(stages)] == runs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), [(24, 40), (12, 20), (6, 10), (3, 5)]),
        (dict(fusion_stages="late"), [(6, 10), (6, 10), (6, 10), (3, 5)]),
        (dict(attend_in="bottleneck"), [(24, 40), (12, 20), (6, 10), (6, 10)]),
        (dict(attend_in="bottleneck", fusion_stages=[4]), [(6, 10)] * 4),
    ],
)
@torch.no_grad()
def test_interleaved_blocks_work_at_the_resolution_of_their_stage(options, expected):
    backbone = build("InterleavedResNeXtViT", **options)
    sizes = []
    for block in backbone.vit.blocks:
        block.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[1]))
    backbone(draw_images())
    assert sizes == expected


def test_interleaved_pools_its_keys_unless_told_otherwise():
    def pooled(**options):
        return {block.attn.pooled for block in build("InterleavedResNeXtViT", **options).vit.blocks}

    assert pooled() == {True}
    assert pooled(global_attention="full") == {False}


def test_attention_in_the_bottleneck_replaces_every_3x3_of_the_last_stage_and_no_other():
    def kernels(**options):
        cnn = build("InterleavedResNeXtViT", variant="rx26_vit_pico", **options).cnn
        return [sum(m.kernel_size == (3, 3) for m in s.modules() if isinstance(m, nn.Conv2d)) for s in cnn.stages]

    assert kernels() == [2, 2, 2, 2]
    assert kernels(attend_in="bottleneck") == [2, 2, 2, 0]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_backbone_takes_any_batch():
    backbone = build("ParallelResNeXtViT").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, images[:1], check_trace=False)
        assert_close(traced(images), backbone(images))


def test_attention_in_the_bottleneck_fits_any_width():
    variant = dict(cnn=dict(blocks=(1, 1, 1, 1), width=28), vit="pico")
    backbone = build("InterleavedResNeXtViT", attend_in="bottleneck", variant=variant)
    (replaced,) = (m for m in backbone.modules() if isinstance(m, AttentionInPlace))
    assert replaced.attn.heads == 1  # three do not divide 224 channels
    assert backbone(torch.randn(1, 3, 64, 64))[-1].isfinite().all()


def test_attention_in_the_bottleneck_sees_the_whole_map():
    backbone = build("InterleavedResNeXtViT", attend_in="bottleneck")
    features = torch.randn(1, 256, 9, 13)
    other = features.clone()
    other[..., 8, 12] += 1.0
    change = (backbone.cnn.layer4(features) - backbone.cnn.layer4(other)).abs().amax(dim=(0, 1))
    assert change.shape == (5, 7)
    assert (change > 0).float().mean() > 0.9  # a 3×3 convolution reaches 4 of the 35 positions


def test_attend_in_names_its_choices():
    with pytest.raises(ValueError, match=r"attend_in 'stem' is not one of stages, bottleneck"):
        build("InterleavedResNeXtViT", attend_in="stem")


def test_frozen_stages_stay_as_they_are_through_a_training_step():
    backbone = build("ParallelResNeXtViT", frozen_stages=2).train()
    before = {name: tensor.clone() for name, tensor in backbone.cnn.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(level.square().mean() for level in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    moved = {
        name.split(".")[0] for name, old in before.items() if not torch.equal(backbone.cnn.state_dict()[name], old)
    }
    assert moved == {"layer3", "layer4"}
