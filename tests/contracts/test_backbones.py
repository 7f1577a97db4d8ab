"""What every backbone promises, for every topology × fusion × direction: a new member is covered once it exists."""

import itertools

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.archs import CNN_ARCHS, CNN_STRIDES, VIT_ARCHS
from hybrid_dense.fusion.base import DIRECTIONS

NANO = "rxnano_vit_pico"
TOPOLOGIES = hybrid_dense.list_topologies()
MEMBERS = list(itertools.product(TOPOLOGIES, hybrid_dense.list_fusions(), DIRECTIONS))
# Smallest, odd, more than one attention window (a window is at most 14 × 16 = 224 pixels), and the ViT's native grid.
SIZES = [(32, 32), (33, 65), (67, 129), (40, 250), (224, 224)]

every_member = pytest.mark.parametrize(("topology", "rule", "direction"), MEMBERS, ids=map("-".join, MEMBERS))
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES)


def build(topology, rule="GatedFusion", direction="both", seed=0, **options):
    torch.manual_seed(seed)
    fusion = dict(type=rule, direction=direction)
    return MODELS.build(dict(dict(type=topology, variant=NANO, fusion=fusion), **options))


def draw_images(batch=2, size=(64, 64), channels=3):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def perturb(backbone):
    """Replace everything that starts as zero or one, so that streams mix and a forgotten tensor would be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in backbone.fusions.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        for name, buffer in backbone.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return backbone


@every_member
def test_four_maps_of_the_promised_shapes(topology, rule, direction):
    backbone = build(topology, rule, direction).eval()
    assert tuple(backbone.strides) == CNN_STRIDES
    with torch.no_grad():
        for height, width in SIZES:
            maps = backbone(draw_images(1, (height, width)))
            expected = [
                (1, channels, -(-height // stride), -(-width // stride))
                for channels, stride in zip(backbone.out_channels, CNN_STRIDES, strict=True)
            ]
            assert [tuple(level.shape) for level in maps] == expected, f"images of {height}×{width}"


@every_member
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_fresh_hybrid_is_exactly_its_cnn(topology, rule, direction, training):
    backbone = build(topology, rule, direction).train(training)
    images = draw_images(size=(67, 129))
    with torch.no_grad():
        for hybrid, alone in zip(backbone(images), backbone.cnn(images), strict=True):
            assert torch.equal(hybrid, alone)


@every_member
def test_every_parameter_learns_within_two_steps(topology, rule, direction):
    backbone = build(topology, rule, direction).train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    idle = {name for name, _ in backbone.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    for step in (1, 2):
        optimizer.zero_grad(set_to_none=True)
        maps = backbone(draw_images())
        sum((level * torch.randn(level.shape, generator=generator)).mean() for level in maps).backward()
        # DDP without find_unused_parameters waits for every gradient, in the first step already.
        assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == [], f"step {step}"
        idle -= {name for name, parameter in backbone.named_parameters() if parameter.grad.any()}
        optimizer.step()
    assert not idle


@every_member
def test_streams_mix_and_images_of_a_batch_do_not(topology, rule, direction):
    backbone = perturb(build(topology, rule, direction)).eval()
    images = draw_images(batch=3, size=(67, 129))
    with torch.no_grad():
        maps, alone = backbone(images), backbone.cnn(images)
        again = backbone(images)
        singles = [backbone(image.unsqueeze(0)) for image in images]
    assert not torch.allclose(maps[-1], alone[-1], rtol=1e-2, atol=1e-2)
    for level, repeated in zip(maps, again, strict=True):
        assert torch.equal(level, repeated)
    for level, parts in zip(maps, zip(*singles, strict=True), strict=True):
        assert_close(level, torch.cat(parts), rtol=1e-5, atol=1e-5 * level.abs().max().item())


@every_member
def test_state_dict_carries_everything(topology, rule, direction):
    source = perturb(build(topology, rule, direction)).eval()
    target = build(topology, rule, direction, seed=7).eval()
    images = draw_images(1)
    with torch.no_grad():
        expected = source(images)
        assert not torch.allclose(target(images)[-1], expected[-1])
        target.load_state_dict(source.state_dict(), strict=True)
        for level, copied in zip(expected, target(images), strict=True):
            assert torch.equal(level, copied)


@every_topology
def test_parts_that_outside_tools_rely_on(topology):
    backbone = build(topology).eval()
    images = draw_images(1, (64, 96))
    assert len(backbone.cnn.stages) == len(backbone.vit.segments) == len(backbone.fusions) == 4
    assert isinstance(backbone.fusions, nn.ModuleList)
    assert len(backbone.out_channels) == len(backbone.strides) == 4
    with torch.no_grad():
        conv, grid = backbone.cnn.stem(images), backbone.vit.embed(images)
        assert conv.shape[-2:] == (16, 24)
        assert grid.shape[-2:] == (4, 6)
        for stage, segment, channels in zip(
            backbone.cnn.stages, backbone.vit.segments, backbone.out_channels, strict=True
        ):
            conv, grid_shape = stage(conv), grid.shape
            grid = segment(grid)
            assert conv.shape[1] == channels
            assert grid.shape == grid_shape


@every_topology
@pytest.mark.parametrize("variant", hybrid_dense.list_variants())
def test_every_variant_builds(topology, variant):
    cnn, vit = variant.split("_vit_")
    with torch.device("meta"):
        backbone = build(topology, variant=variant)
    expected = (64, 128, 256, 512) if cnn == "rxnano" else (256, 512, 1024, 2048)
    assert tuple(backbone.out_channels) == expected
    assert next(backbone.cnn.layer4[-1].bn3.parameters()).shape == (expected[-1],)
    assert len(backbone.vit.blocks) == VIT_ARCHS[vit].depth


def test_variants_are_the_product_of_both_tables():
    assert len(hybrid_dense.list_variants()) == len(CNN_ARCHS) * len(VIT_ARCHS) == 30


@every_topology
@pytest.mark.parametrize("images_channels", [1, 4])
def test_other_image_channels(topology, images_channels):
    backbone = build(topology, in_channels=images_channels).eval()
    with torch.no_grad():
        assert len(backbone(draw_images(1, channels=images_channels))) == 4


BAD_IMAGES = {
    "grey": (draw_images(1, channels=1), ["(1, 1, 64, 64)", "(batch, 3, height, width)", "in_channels="]),
    "no batch": (draw_images(1)[0], ["(3, 64, 64)", "(batch, 3, height, width)"]),
    "too low": (draw_images(1, (31, 64)), ["31×64", "at least 32×32"]),
    "too narrow": (draw_images(1, (64, 16)), ["64×16", "at least 32×32"]),
}


@every_topology
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images_that_cannot_work(topology, case):
    images, words = BAD_IMAGES[case]
    with pytest.raises(ValueError) as caught:
        build(topology).eval()(images)
    check_one_line(caught, words)


BAD_OPTIONS = {
    "variant misspelt": (dict(variant="rx50_vit_x"), ["'rx50_vit_x'", "did you mean 'rx50_vit_", "rxnano", "pico"]),
    "variant of one half": (dict(variant="rx50"), ["'rx50'", "did you mean", "<cnn>_vit_<vit>"]),
    "variant missing": (dict(variant=None), ["None", "<cnn>_vit_<vit>"]),
    "fusion unknown": (
        dict(fusion=dict(type="GateFusion")),
        ["'GateFusion'", "did you mean 'GatedFusion'", "AddFusion"],
    ),
    "fusion of another kind": (dict(fusion=dict(type="HybridFPN")), ["'HybridFPN'", "GatedFusion"]),
    "direction": (dict(fusion=dict(type="AddFusion", direction="cnn")), ["'cnn'", "both", "to_cnn", "to_vit"]),
    "stages by name": (dict(fusion_stages="middle"), ["'middle'", "early", "late", "all"]),
    "stage 0": (dict(fusion_stages=(0, 1)), ["(0, 1)", "from 1 to 4"]),
    "stage 5": (dict(fusion_stages=[4, 5]), ["[4, 5]", "from 1 to 4"]),
    "stage alone": (dict(fusion_stages=2), ["2", "from 1 to 4"]),
    "fusion without type": (dict(fusion=dict(direction="both")), ["None", "GatedFusion"]),
    "fusion as a name": (dict(fusion="AddFusion"), ["AddFusion", "type"]),
}


@every_topology
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_cannot_work(topology, case):
    options, words = BAD_OPTIONS[case]
    with pytest.raises(ValueError) as caught:
        build(topology, **options)
    check_one_line(caught, words)


def check_one_line(caught, words):
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
