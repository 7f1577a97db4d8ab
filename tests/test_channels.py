"""References to the backbone become numbers, for any backbone, and a wrong one is named."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from hybrid_dense.channels import fill_channels

NANO = dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")


def fill(model: dict, scope: str = "mmengine") -> Config:
    cfg = Config(dict(default_scope=scope, model=model))
    fill_channels(cfg)
    return cfg


def test_every_form_of_reference():
    head = dict(
        all="backbone.out_channels",
        last="backbone.out_channels[-1]",
        first="backbone.out_channels[0]",
        some="backbone.out_channels[1:]",
        middle="backbone.out_channels[1:-1]",
        strides="backbone.strides",
        nested=[dict(channels=["backbone.out_channels[2]", 7]), "backbone.strides[3]"],
        fixed=("backbone.out_channels[0]", 7),
    )
    filled = fill(dict(backbone=NANO, head=head)).model.head
    assert filled.all == [64, 128, 256, 512]
    assert (filled.last, filled.first) == (512, 64)
    assert (filled.some, filled.middle) == ([128, 256, 512], [128, 256])
    assert filled.strides == [4, 8, 16, 32]
    assert filled.fixed == (64, 7)
    assert filled.nested == [dict(channels=[256, 7]), 32]


@pytest.mark.parametrize(
    ("backbone", "channels", "strides"),
    [
        (dict(type="SerialResNeXtViT", variant="rx26_vit_ti"), [256, 512, 1024, 2048], [4, 8, 16, 32]),
        (dict(type="PlainViT", variant="rxnano_vit_ti"), [48, 96, 192, 192], [4, 8, 16, 32]),
        (dict(type="PlainResNeXt", variant="rxnano_vit_ti", output_stride=8), [64, 128, 256, 512], [4, 8, 8, 8]),
        (dict(type="PlainResNeXt", variant="rxnano_vit_ti", in_channels=6), [64, 128, 256, 512], [4, 8, 16, 32]),
        # mmdet's say nothing about their channels, and its Swin cannot be built on the meta device.
        (dict(type="ResNet", depth=18, out_indices=(1, 3)), [128, 512], [8, 32]),
        (dict(type="SwinTransformer", depths=(1, 1, 1, 1)), [96, 192, 384, 768], [4, 8, 16, 32]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_the_maps_of_any_backbone(backbone, channels, strides):
    neck = dict(in_channels="backbone.out_channels", strides="backbone.strides")
    cfg = fill(dict(backbone=backbone, neck=neck), scope="mmdet")
    assert cfg.model.neck == dict(in_channels=channels, strides=strides)


def test_a_reference_means_the_nearest_backbone():
    wide = dict(type="PlainResNeXt", variant="rx26_vit_ti")
    student = dict(backbone=NANO, neck=dict(in_channels="backbone.out_channels"))
    cfg = fill(dict(backbone=wide, width="backbone.out_channels[0]", student=student))
    assert cfg.model.width == 256
    assert cfg.model.student.neck.in_channels == [64, 128, 256, 512]


def test_wrappers_are_seen_through():
    detector = dict(backbone=NANO, neck=dict(in_channels="backbone.out_channels"))
    assert fill(dict(type="Semi", detector=detector)).model.detector.neck.in_channels == [64, 128, 256, 512]


def test_the_filled_config_builds_and_survives_a_file(tmp_path):
    cfg = fill(dict(backbone=NANO, neck=dict(type="HybridFPN", in_channels="backbone.out_channels")))
    cfg.dump(tmp_path / "plain.py")
    plain = Config.fromfile(tmp_path / "plain.py").model
    images = torch.randn(1, 3, 64, 64)
    assert len(MODELS.build(plain.neck)(MODELS.build(plain.backbone)(images))) == 5


def test_other_strings_and_random_numbers_stay():
    init_cfg = dict(type="Pretrained", prefix="backbone.", layer="backbone.layer4", note="the backbone.out_channels")
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    swin = dict(type="SwinTransformer", depths=(1, 1, 1, 1))
    cfg = fill(dict(backbone=swin, head=dict(init_cfg), width="backbone.out_channels[0]"), scope="mmdet")
    assert cfg.model.head == init_cfg
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_reference_nothing_is_built():
    assert fill(dict(backbone=dict(type="NoSuchBackbone"))).model.backbone.type == "NoSuchBackbone"
    fill_channels(Config(dict(default_scope="mmdet")))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("backbone.out_chanels", "model.neck.in_channels: 'backbone.out_chanels' .* mean 'backbone.out_channels'"),
        ("backbone.stride[1]", "did you mean 'backbone.strides"),
        ("backbone.out_channels[4]", r"has 4 maps, out_channels \[64, 128, 256, 512\]"),
        ("backbone.out_channels[first]", r"model.neck.in_channels: .* has 4 maps"),
        ("backbone.out_channels[::2]", r"model.neck.in_channels: .* has 4 maps"),
    ],
)
def test_a_wrong_reference_is_one_line_that_names_it(reference, message):
    with pytest.raises(ValueError, match=message) as error:
        fill(dict(backbone=NANO, neck=dict(in_channels=reference)))
    assert "\n" not in str(error.value)


def test_a_reference_without_a_backbone_is_named():
    with pytest.raises(ValueError, match=r"model.neck.in_channels: .* has no backbone to refer to"):
        fill(dict(neck=dict(in_channels="backbone.out_channels")))


def test_the_backbone_s_own_mistakes_are_its_own():
    with pytest.raises(ValueError, match="unknown variant 'rx50_vit_x'"):
        fill(dict(backbone=dict(NANO, variant="rx50_vit_x"), neck=dict(in_channels="backbone.out_channels")))
