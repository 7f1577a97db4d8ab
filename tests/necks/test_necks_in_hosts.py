"""Each neck behind the hosts' backbones and ours, and in front of their heads: one loss and one prediction."""

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmdet.registry import MODELS as MMDET
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG
from mmseg.structures import SegDataSample

import hybrid_dense  # noqa: F401

WIDTH = 32
NECKS = {
    "HybridFPN": {},
    "HybridFPN bottom-up": dict(type="HybridFPN", bottom_up=True, merge="gate", norm="BN"),
    "SimplePyramid": {},
    "DeformableEncoderNeck": dict(num_layers=1, heads=4, points=2),
}
every_neck = pytest.mark.parametrize("neck", NECKS)

HYBRID = dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")
SWIN = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4)
VIT = dict(type="VisionTransformer", img_size=64, embed_dims=32, num_layers=2, num_heads=2)
# The registry of the host, the backbone, and the neck's arguments: channels, and strides where they are others.
BACKBONES = {
    "ResNet-18": (MMDET, dict(type="ResNet", depth=18, base_channels=8, stem_channels=8), [8, 16, 32, 64], {}),
    "ResNet-50": (MMDET, dict(type="ResNet", depth=50, base_channels=4, stem_channels=4), [16, 32, 64, 128], {}),
    "Swin": (MMDET, dict(type="SwinTransformer", **SWIN), [8, 16, 32, 64], {}),
    "Swin of mmseg": (MMSEG, dict(type="SwinTransformer", **SWIN), [8, 16, 32, 64], {}),
    "hybrid": (MODELS, HYBRID, [64, 128, 256, 512], {}),
    "dilated hybrid": (MODELS, dict(HYBRID, output_stride=16), [64, 128, 256, 512], dict(strides=(4, 8, 16, 16))),
}


def neck_config(neck, in_channels, **options):
    return dict(dict(type=neck, in_channels=in_channels, out_channels=WIDTH, num_outs=5), **NECKS[neck], **options)


@every_neck
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (67, 129)])
def test_behind_any_backbone(neck, name, size):
    registry, config, channels, options = BACKBONES[name]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(registry.scope):
        backbone = registry.build(config)
    pyramid = MODELS.build(neck_config(neck, channels, **options))
    features = backbone(torch.randn(2, 3, *size))
    maps = pyramid(features)
    assert [tuple(level.shape[-2:]) for level in maps[:3]] == [tuple(level.shape[-2:]) for level in features[:3]]
    sum((level * torch.randn_like(level)).mean() for level in maps).backward()
    assert idle(pyramid) == []
    if neck != "SimplePyramid":
        assert idle(backbone) == []


def idle(module):
    return [name for name, tensor in module.named_parameters() if tensor.requires_grad and tensor.grad is None]


@pytest.mark.parametrize("in_channels", [32, [32, 32]])
def test_a_simple_pyramid_behind_the_vit_of_mmseg(in_channels):
    with DefaultScope.overwrite_default_scope("mmseg"):
        backbone = MMSEG.build(dict(VIT, out_indices=(1,) if in_channels == 32 else (0, 1)))
    strides = None if in_channels == 32 else [16, 16]
    pyramid = MODELS.build(dict(type="SimplePyramid", in_channels=in_channels, strides=strides, out_channels=WIDTH))
    maps = pyramid(backbone(torch.randn(1, 3, 64, 96)))
    assert [tuple(level.shape) for level in maps] == [
        (1, WIDTH, *size) for size in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))
    ]


def test_a_simple_pyramid_trains_all_of_a_dilated_hybrid():
    """From the third map, stage 4 would see no gradient; dilated, the last map is at stride 16, too."""
    _, config, channels, options = BACKBONES["dilated hybrid"]
    backbone = MODELS.build(config)
    pyramid = MODELS.build(neck_config("SimplePyramid", channels, in_index=3, **options))
    sum(level.square().mean() for level in pyramid(backbone(torch.randn(2, 3, 64, 96)))).backward()
    assert idle(backbone) == idle(pyramid) == []


def narrow(node):
    """Bring a host's config to the width of this test, in place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            narrow(value)
        elif str(key).endswith("channels") and value in (256, 1024):
            node[key] = WIDTH
    return node


def detector(base, neck, **options):
    config = narrow(get_config(f"mmdet::_base_/models/{base}.py").to_dict()["model"])
    config.update(backbone=HYBRID, neck=neck_config(neck, [64, 128, 256, 512], **options))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MMDET.build(ConfigDict(config))


@every_neck
@pytest.mark.parametrize(
    ("base", "options"),
    [("retinanet_r50_fpn", dict(start_level=1, extra_levels="conv_on_input")), ("mask-rcnn_r50_fpn", {})],
)
def test_in_a_detector(neck, base, options):
    torch.manual_seed(0)
    model = detector(base, neck, **options)
    batch = demo_mm_inputs(2, [(3, 96, 128), (3, 90, 100)], num_items=[2, 3], num_classes=4, with_mask=True)
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = model.data_preprocessor(batch, True)
        losses = model(**data, mode="loss")
        total = sum(sum(loss) if isinstance(loss, list) else loss for name, loss in losses.items() if "loss" in name)
        assert torch.isfinite(total)
        total.backward()
        assert idle(model.neck) == []
        with torch.no_grad():
            assert len(model.eval()(**data, mode="predict")) == 2


def segmentor(neck):
    common = dict(in_channels=[WIDTH] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=5, align_corners=False)
    config = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 96), seg_pad_val=255),
        backbone=HYBRID,
        neck=dict(neck_config(neck, [64, 128, 256, 512]), num_outs=4),
        decode_head=dict(type="FPNHead", feature_strides=[4, 8, 16, 32], **common),
        auxiliary_head=dict(type="UPerHead", **common),
        test_cfg=dict(mode="whole"),
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MMSEG.build(ConfigDict(config))


@every_neck
def test_in_a_segmentor(neck):
    torch.manual_seed(0)
    model = segmentor(neck)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 64, 96)))
        samples.append(sample)
    with DefaultScope.overwrite_default_scope("mmseg"):
        data = model.data_preprocessor(dict(inputs=[torch.rand(3, 64, 96)] * 2, data_samples=samples), True)
        losses = model(**data, mode="loss")
        total = sum(loss for name, loss in losses.items() if "loss" in name)
        assert torch.isfinite(total)
        total.backward()
        assert idle(model.neck) == []
        with torch.no_grad():
            predictions = model.eval()(**data, mode="predict")
    assert [tuple(one.pred_sem_seg.data.shape) for one in predictions] == [(1, 64, 96)] * 2
