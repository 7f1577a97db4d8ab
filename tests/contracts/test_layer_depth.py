"""Every backbone says how deep its parameters lie and what they are part of."""

import pytest
import torch
from members import CONFIGS, NANO
from mmengine.registry import MODELS

# Everything that a trunk can have: tokens, scales, a norm before the blocks, convolutions after them.
OPTIONS = dict(class_token=True, registers=2, layer_scale=1e-5, norm_pre=True, residual_conv=True, deep_stem=True)
BACKBONES = {**CONFIGS, "PlainResNeXt": dict(type="PlainResNeXt"), "PlainViT": dict(type="PlainViT")}
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def build(name, **options):
    with torch.device("meta"):
        return MODELS.build(dict(BACKBONES[name], variant=NANO, **options))


def names_of(module, prefix):
    return [name for name, _ in module.named_parameters(prefix)]


@every_backbone
def test_layers_of_both_trunks_count_from_their_input(name):
    backbone = build(name, **OPTIONS)
    expected = {}
    if hasattr(backbone, "cnn"):
        layers = 6  # stem, four stages, what follows
        expected |= {n: (0, layers) for n in names_of(backbone.cnn, "cnn")}
        for stage in range(1, 5):
            module = getattr(backbone.cnn, f"layer{stage}")
            expected |= {n: (stage, layers) for n in names_of(module, f"cnn.layer{stage}")}
    if hasattr(backbone, "vit"):
        blocks = len(backbone.vit.blocks)
        expected |= {n: (0, blocks + 2) for n in names_of(backbone.vit, "vit")}
        for index, block in enumerate(backbone.vit.blocks):
            expected |= {n: (index + 1, blocks + 2) for n in names_of(block, f"vit.blocks.{index}")}
        for top in ("norm", "residuals"):
            expected |= {n: (blocks + 1, blocks + 2) for n in names_of(getattr(backbone.vit, top), f"vit.{top}")}
        if backbone.vit.patch_embed.patch == 1:  # of C4, and new: no file has it
            embed = names_of(backbone.vit.patch_embed, "vit.patch_embed")
            expected |= {n: (blocks + 1, blocks + 2) for n in embed}
    assert {n: backbone.get_layer_depth(n) for n in expected} == expected
    assert {"vit.pos_embed", "vit.cls_token", "vit.reg_token"} <= set(expected) or not hasattr(backbone, "vit")


@every_backbone
def test_what_belongs_to_neither_trunk_is_at_the_top(name):
    backbone = build(name)
    others = [n for n, _ in backbone.named_parameters() if not n.startswith(("cnn.", "vit."))]
    assert others or name == "PlainResNeXt"
    for n in others:
        depth, layers = backbone.get_layer_depth(n)
        assert depth == layers - 1
        assert backbone.get_part(n) == "fusion"


@every_backbone
def test_names_may_carry_the_prefix_of_a_model(name):
    backbone = build(name, **OPTIONS)
    for n, _ in backbone.named_parameters():
        assert backbone.get_layer_depth(f"student.backbone.{n}", "student.backbone.") == backbone.get_layer_depth(n)
        assert backbone.get_part(f"student.backbone.{n}", "student.backbone.") == backbone.get_part(n)
    # mmpretrain's convention: what does not begin with the prefix comes behind the backbone.
    depth, layers = backbone.get_layer_depth("roi_head.cnn.layer1.weight", "backbone.")
    assert depth == layers - 1


@every_backbone
def test_parts_are_the_modules_they_are_called_after(name):
    backbone = build(name, **OPTIONS)
    expected = {}
    if hasattr(backbone, "cnn"):
        expected |= {n: "cnn.stem" for n in names_of(backbone.cnn, "cnn")}
        for index in range(4):
            module = backbone.cnn.stages[index]
            expected |= {n: f"cnn.stages.{index}" for n in names_of(module, f"cnn.layer{index + 1}")}
    if hasattr(backbone, "vit"):
        expected |= {n: "vit.embed" for n in names_of(backbone.vit, "vit")}
        own = {id(parameter): n for n, parameter in backbone.vit.named_parameters("vit")}
        for index in range(4):
            ours = [*backbone.vit.segment_blocks(index).parameters(), *backbone.vit.residuals[index].parameters()]
            expected |= {own[id(parameter)]: f"vit.segments.{index}" for parameter in ours}
        expected |= {n: "vit.segments.3" for n in names_of(backbone.vit.norm, "vit.norm")}
    assert {n: backbone.get_part(n) for n in expected} == expected
