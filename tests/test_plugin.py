"""A stranger's config, in a folder of its own, gets the hybrids by `custom_imports` alone."""

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RUN = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
runner = Runner.from_cfg(Config.fromfile("config.py"))
runner.train()
print("trained", runner.iter, type(runner.model.backbone).__name__)
"""

COMMON = """
custom_imports = dict(imports=["hybrid_dense"])
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
work_dir = "work"
backbone = dict(
    type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=dict(type="AddFusion"), fusion_stages="late")
"""

DETECTION = """
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(type="DetDataPreprocessor", mean=[0.0] * 3, std=[255.0] * 3, pad_size_divisor=32),
    backbone=backbone,
    neck=dict(type="HybridFPN", in_channels=[64, 128, 256, 512], out_channels=32, num_outs=5, extra_levels="conv"),
    bbox_head=dict(
        type="RetinaHead", num_classes=6, in_channels=32, feat_channels=32, stacked_convs=1,
        anchor_generator=dict(
            type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset", data_root=DATA, ann_file="annotations/instances_train.json", data_prefix=dict(img="train/"),
        metainfo=dict(classes=("disk", "square", "triangle", "star", "ring", "cross")),
        pipeline=[
            dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True), dict(type="PackDetInputs")]))
"""

SEGMENTATION = """
default_scope = "mmseg"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[0.0] * 3, std=[255.0] * 3, size=(96, 96)),
    backbone=backbone,
    decode_head=dict(
        type="UPerHead", in_channels=[64, 128, 256, 512], in_index=[0, 1, 2, 3], channels=32, num_classes=7,
        norm_cfg=dict(type="BN"), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(), test_cfg=dict(mode="whole"))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset", data_root=DATA, data_prefix=dict(img_path="train", seg_map_path="train_labels"),
        metainfo=dict(classes=("background", "disk", "square", "triangle", "star", "ring", "cross")),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]))
"""


@pytest.mark.parametrize(("host", "text"), [("mmdet", DETECTION), ("mmseg", SEGMENTATION)])
def test_a_strangers_config_trains_a_step(tmp_path, scenes, host, text):
    (tmp_path / "config.py").write_text(f"DATA = {str(scenes)!r}\n{COMMON}{text}")
    script = f"from {host}.utils import register_all_modules\nregister_all_modules()\n{textwrap.dedent(RUN)}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained 1 ParallelResNeXtViT" in done.stdout


README = (Path(__file__).parents[1] / "README.md").read_text()
(SNIPPET,) = re.findall(r"```python\n(_base_ = .*?)```", README, flags=re.DOTALL)
BUILD = """
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from {host}.utils import register_all_modules
register_all_modules()
with torch.device("meta"):
    model = MODELS.build(Config.fromfile("config.py").model)
print(type(model).__name__, type(model.backbone).__name__, model.backbone.out_channels)
"""


@pytest.mark.parametrize(
    ("host", "base", "model"),
    [
        ("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "MaskRCNN"),
        ("mmseg", "upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", "EncoderDecoder"),
    ],
)
def test_the_readmes_lines_over_a_config_of_the_host(tmp_path, host, base, model):
    configs = Path(importlib.util.find_spec(host).origin).parent / ".mim/configs"
    text = SNIPPET.replace("mask-rcnn_r50_fpn_1x_coco.py", str(configs / base))
    if host == "mmseg":
        text = text.replace("# pretrained=None", "pretrained=None")
    (tmp_path / "config.py").write_text(text)
    script = BUILD.format(host=host)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{model} ParallelResNeXtViT (256, 512, 1024, 2048)"
