"""What every backbone promises, for every topology × fusion × direction: a new member is covered once it exists."""

import pytest
import torch
from members import build, draw_images, every_member, every_topology, perturb
from torch import nn
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.archs import CNN_ARCHS, CNN_STRIDES, VIT_ARCHS
from hybrid_dense.trunks import ViT

# Smallest, odd, more than one attention window (a window is at most 14 × 16 = 224 pixels), and the ViT's native grid.
SIZES = [(32, 32), (33, 65), (67, 129), (40, 250), (224, 224)]


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


@every_member
def test_what_fills_up_a_window_is_never_looked_at(topology, rule, direction, pad_with_noise):
    # Without global blocks, every block of the nano ViT has windows: a grid of 15 is cut into two of 8.
    backbone = perturb(build(topology, rule, direction, global_attention="none", class_token=True)).eval()
    images = draw_images(size=(64, 240))  # whole patches: the image itself is not padded
    with torch.no_grad():
        expected = backbone(images)
        filled = pad_with_noise()
        maps = backbone(images)
    assert filled
    for level, clean in zip(maps, expected, strict=True):
        assert_close(level, clean, rtol=1e-5, atol=1e-5 * clean.abs().max().item())


@every_member
def test_bfloat16_stays_near_float32(topology, rule, direction):
    backbone = perturb(build(topology, rule, direction), scale=0.02).eval()
    images = draw_images(1, (32, 64))
    with torch.no_grad():
        expected = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            maps = backbone(images)
    for level, exact in zip(maps, expected, strict=True):
        assert exact.norm() > 0
        # bfloat16 keeps 8 bits: 0.4 % a rounding, a few per cent after some 30 layers.
        assert (level.float() - exact).norm() < 0.05 * exact.norm()


@every_member
def test_checkpointing_changes_neither_gradients_nor_statistics(topology, rule, direction):
    passes = []
    for with_cp in (False, True):
        backbone = perturb(build(topology, rule, direction, with_cp=with_cp, drop_path_rate=0.3)).train()
        torch.manual_seed(5)
        sum((level * level).mean() for level in backbone(draw_images(3))).backward()
        gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
        passes.append({**gradients, **dict(backbone.named_buffers())})
    plain, recomputed = passes
    assert plain.keys() == recomputed.keys()
    for name, tensor in plain.items():
        assert_close(recomputed[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@every_topology
def test_parts_that_outside_tools_rely_on(topology):
    backbone = build(topology).eval()
    images = draw_images(1, (64, 96))
    assert len(backbone.cnn.stages) == len(backbone.vit.segments) == len(backbone.fusions) == 4
    assert isinstance(backbone.fusions, nn.ModuleList)
    assert len(backbone.out_channels) == len(backbone.strides) == 4
    with torch.no_grad():
        conv = backbone.cnn.stem(images)
        assert conv.shape[-2:] == (16, 24)
        maps = []
        for stage, channels in zip(backbone.cnn.stages, backbone.out_channels, strict=True):
            conv = stage(conv)
            assert conv.shape[1] == channels
            maps.append(conv)
        # The serial ViT takes its tokens from C4.
        grid = backbone.vit.embed(maps[2] if topology == "SerialResNeXtViT" else images)
        shape = grid.shape
        assert shape[-2:] == (4, 6)
        for segment in backbone.vit.segments:
            grid = segment(grid)
            assert grid.shape == shape


@every_topology
def test_every_parameter_belongs_to_one_part(topology):
    backbone = build(topology)
    owned = [p for modules in backbone.parts().values() for module in modules for p in module.parameters()]
    assert len(owned) == len(set(owned))
    left = {name for name, parameter in backbone.named_parameters() if parameter not in set(owned)}
    assert left == {"vit.pos_embed", "vit.norm.weight", "vit.norm.bias"}


# torchvision's and timm's models without their classifiers; patch embedding and table of positions not counted in.
CNN_PARAMETERS = {"r18": 11_176_512, "r34": 21_284_672, "r50": 23_508_032, "rx50": 22_979_904, "rx101": 42_128_704}
VIT_BLOCKS = {"ti": 5_338_368, "s": 21_293_568, "b": 85_054_464, "l": 302_309_376}


@every_topology
@pytest.mark.parametrize("variant", hybrid_dense.list_variants())
def test_every_variant_builds(topology, variant):
    cnn, vit = variant.split("_vit_")
    with torch.device("meta"):
        backbone = build(topology, variant=variant)
    basic = cnn in ("r18", "r34")
    expected = (64, 128, 256, 512) if basic or cnn == "rxnano" else (256, 512, 1024, 2048)
    assert tuple(backbone.out_channels) == expected
    last = backbone.cnn.layer4[-1]
    assert (last.bn2 if basic else last.bn3).weight.shape == (expected[-1],)
    assert len(backbone.vit.blocks) == VIT_ARCHS[vit].depth
    if cnn in CNN_PARAMETERS and "bottleneck" not in topology:
        assert count(backbone.cnn) == CNN_PARAMETERS[cnn]
    if vit in VIT_BLOCKS:
        assert count(backbone.vit.blocks) == VIT_BLOCKS[vit]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("vit", VIT_BLOCKS)
def test_blocks_are_those_of_the_formula(vit):
    """Attention 4d² + 4d, MLP 8d² + 5d, two norms 4d: what Dosovitskiy et al. report as 12 d² a block."""
    arch = VIT_ARCHS[vit]
    assert VIT_BLOCKS[vit] == arch.depth * (12 * arch.dim**2 + 13 * arch.dim)


def test_variants_are_the_product_of_both_tables():
    assert len(hybrid_dense.list_variants()) == len(CNN_ARCHS) * len(VIT_ARCHS) == 40


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
    "attention": (dict(attention="flash"), ["'flash'", "sdpa, explicit, linear"]),
    "global attention": (dict(global_attention="half"), ["'half'", "full, pooled, none"]),
    "positions": (dict(positions="relative"), ["'relative'", "learned, sine, rope, none"]),
    "mlp": (dict(mlp="relu"), ["'relu'", "gelu, swiglu"]),
    "norm": (dict(norm="sandwich"), ["'sandwich'", "pre, post"]),
    "output stride": (dict(output_stride=4), ["4", "8, 16, 32"]),
    "frozen stages": (dict(frozen_stages=5), ["5", "-1"]),
    "direction of a rule that no stage uses": (
        dict(fusion=dict(type="AddFusion", direction="cnn"), fusion_stages=()),
        ["'cnn'", "both, to_cnn, to_vit"],
    ),
    "fusion option": (dict(fusion=dict(type="AddFusion", gain=2)), ["AddFusion has no option 'gain'", "direction"]),
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


@every_topology
def test_an_unknown_option_names_the_nearest(topology):
    with pytest.raises(TypeError) as caught:
        build(topology, widnow=7)
    check_one_line(caught, ["unexpected keyword argument 'widnow'", "did you mean 'window'"])


@every_topology
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("fusion_stage", "fusion_stages"), ("inchannels", "in_channels"), ("with_checkpoint", "with_cp")],
)
def test_an_unknown_argument_names_the_nearest(topology, wrong, right):
    with pytest.raises(TypeError, match=f"did you mean '{right}'"):
        build(topology, **{wrong: 1})


@every_topology
def test_a_frozen_cnn_is_frozen_whatever_it_is_made_of(topology):
    backbone = build(topology, frozen_stages=4)
    assert not any(parameter.requires_grad for parameter in backbone.cnn.parameters())


@every_topology
def test_the_form_of_attention_reaches_every_block(topology):
    backbone = build(topology, attention="explicit")
    forms = {type(module.attend).__name__ for module in backbone.modules() if hasattr(module, "attend")}
    assert forms == {"ExplicitSoftmax"}


@every_topology
def test_the_residual_stream_keeps_its_precision_under_autocast(topology):
    for positions in ("learned", "sine", "rope", "none"):
        backbone = build(topology, positions=positions).eval()
        types = []
        backbone.vit.blocks[-1].register_forward_pre_hook(lambda _, inputs, types=types: types.append(inputs[0].dtype))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            backbone(draw_images(1, (32, 32)))
        assert types == [torch.float32], positions


@every_topology
def test_options_reach_the_trunks(topology):
    backbone = build(topology, window=7, norm_eval=True, class_token=True, output_stride=16)
    assert backbone.vit.cls_token is not None
    assert backbone.cnn.norm_eval
    assert tuple(backbone.strides) == (4, 8, 16, 16)
    with torch.no_grad():
        maps = backbone.eval()(draw_images(1, (65, 97)))
    assert [tuple(level.shape[-2:]) for level in maps] == [(17, 25), (9, 13), (5, 7), (5, 7)]


def test_options_are_those_of_both_trunks():
    options = hybrid_dense.backbones.Backbone.option_names
    assert {"window", "attention", "global_attention", "drop_path_rate", "frozen_stages", "norm_eval"} <= options
    assert not options & {"arch", "in_channels", "variant", "fusion"}
    assert ViT.__init__.__kwdefaults__ is None  # all of them can be named


def check_one_line(caught, words):
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
