"""autocast_modules and AutocastHook on minuscule stock models; this must run where bfloat16 is only emulated."""

import copy
import logging
from types import SimpleNamespace

import mmdet.models  # noqa: F401  (registers the models)
import mmseg.models  # noqa: F401
import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from hybrid_dense.engine import precision
from hybrid_dense.engine.precision import autocast_modules

SIZE = 64
BACKBONE = dict(type="ResNet", depth=18, base_channels=8, norm_eval=False)
BOX_CODER = dict(type="DeltaXYWHBBoxCoder")
ASSIGNER = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0)
SAMPLER = dict(type="RandomSampler", num=16, pos_fraction=0.5, add_gt_as_proposals=True)
ANCHORS = dict(type="AnchorGenerator", scales=[4], ratios=[1.0], strides=[8, 16])
NECK = dict(type="FPN", in_channels=[16, 32], out_channels=8, num_outs=2)


def retinanet():
    head = dict(type="RetinaHead", num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1)
    return dict(
        type="RetinaNet",
        backbone=dict(BACKBONE, out_indices=(1, 2)),
        neck=NECK,
        bbox_head=dict(head, anchor_generator=ANCHORS, bbox_coder=BOX_CODER),
        train_cfg=dict(assigner=ASSIGNER, sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1),
        test_cfg=dict(nms_pre=50, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
    )


def box_head():
    return dict(
        type="Shared2FCBBoxHead",
        in_channels=8,
        fc_out_channels=16,
        roi_feat_size=7,
        num_classes=2,
        bbox_coder=BOX_CODER,
        reg_class_agnostic=True,
    )


def mask_rcnn(stages=1):
    def extractor(size):
        roi_layer = dict(type="RoIAlign", output_size=size, sampling_ratio=0)
        return dict(type="SingleRoIExtractor", roi_layer=roi_layer, out_channels=8, featmap_strides=[8, 16])

    proposals = dict(nms_pre=50, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
    rpn_sampler = dict(SAMPLER, add_gt_as_proposals=False)
    stage = dict(assigner=ASSIGNER, sampler=SAMPLER, mask_size=14, pos_weight=-1)
    cascade = dict(type="CascadeRoIHead", num_stages=stages, stage_loss_weights=[1.0] * stages)
    return dict(
        type="MaskRCNN",
        backbone=dict(BACKBONE, out_indices=(1, 2)),
        neck=NECK,
        rpn_head=dict(type="RPNHead", in_channels=8, feat_channels=8, anchor_generator=ANCHORS, bbox_coder=BOX_CODER),
        roi_head=dict(
            cascade if stages > 1 else dict(type="StandardRoIHead"),
            bbox_roi_extractor=extractor(7),
            bbox_head=[box_head()] * stages if stages > 1 else box_head(),
            mask_roi_extractor=extractor(7),
            mask_head=dict(type="FCNMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, num_classes=2),
        ),
        train_cfg=dict(
            rpn=dict(assigner=ASSIGNER, sampler=rpn_sampler, allowed_border=-1, pos_weight=-1),
            rpn_proposal=proposals,
            rcnn=[stage] * stages if stages > 1 else stage,
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=4, mask_thr_binary=0.5),
        ),
    )


def encoder_decoder():
    head = dict(type="FCNHead", channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type="BN"), align_corners=False)
    return dict(
        type="EncoderDecoder",
        backbone=dict(BACKBONE, type="mmdet.ResNet"),
        decode_head=dict(head, in_channels=64, in_index=3),
        auxiliary_head=[dict(head, in_channels=32, in_index=2), dict(head, in_channels=16, in_index=1)],
        test_cfg=dict(mode="whole"),
    )


def build(config, scope="mmdet"):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(config))


def draw_batch():
    """Two images, each with two boxes and their masks."""
    torch.manual_seed(1)
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    masks[0, 8:40, 8:40] = masks[1, 20:60, 30:60] = 1
    sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0)))
    sample.set_metainfo(dict(batch_input_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40], [30, 20, 60, 60]]),
        labels=torch.tensor([0, 1]),
        masks=BitmapMasks(masks.numpy(), SIZE, SIZE),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return torch.randn(2, 3, SIZE, SIZE), [sample, copy.deepcopy(sample)]


def total_loss(model, images, samples):
    torch.manual_seed(2)  # samplers draw
    loss, _ = model.parse_losses(model.loss(images, samples))
    return loss


def layer_dtypes(model):
    """Output type of every convolution and linear layer that runs from now on, by name."""
    found = {}

    def note(name):
        return lambda module, inputs, output: found.update({name: output.dtype})

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(note(name))
    return found


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (retinanet, {"backbone", "neck", "bbox_head"}),
        (mask_rcnn, {"backbone", "neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head"}),
    ],
)
def test_covers_the_networks(config, parts):
    assert parts <= set(autocast_modules(build(config())))


@torch.no_grad()
def test_layers_compute_in_bfloat16_and_parts_answer_in_float32():
    model = build(retinanet()).eval()
    dtypes = layer_dtypes(model)
    images, _ = draw_batch()
    autocast_modules(model)
    features = model.backbone(images)
    pyramid = model.neck(features)
    outputs = model.bbox_head(pyramid)
    assert len(dtypes) > 20
    assert set(dtypes.values()) == {torch.bfloat16}
    for part in (features, pyramid, *outputs):
        assert {level.dtype for level in part} == {torch.float32}
        assert isinstance(part, (tuple, list))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("config", [retinanet, mask_rcnn])
def test_a_training_step_is_close_to_float32(config):
    model = build(config()).train()
    images, samples = draw_batch()
    expected = total_loss(copy.deepcopy(model), images, samples)
    dtypes = layer_dtypes(model)
    autocast_modules(model)
    loss = total_loss(model, images, samples)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss != expected
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert set(dtypes.values()) == {torch.bfloat16}
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 60
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
def test_instance_segmentation_predicts():
    model = build(mask_rcnn()).eval()
    autocast_modules(model)
    images, samples = draw_batch()
    found = model.predict(images, samples)[0].pred_instances
    assert len(found) == 4
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    assert found.masks.shape == (4, SIZE, SIZE)


@torch.no_grad()
def test_tensor_mode_runs_too():
    """What FLOP counters and exporters call."""
    model = build(mask_rcnn()).eval()
    autocast_modules(model)
    images, samples = draw_batch()
    outputs = model._forward(images, samples)
    assert {tensor.dtype for tensor in precision._tensors(outputs)} == {torch.float32}


def test_heads_in_lists_are_covered():
    """Cascade R-CNN keeps its box heads in a list."""
    model = build(mask_rcnn(stages=2)).train()
    dtypes = layer_dtypes(model)
    images, samples = draw_batch()
    autocast_modules(model)
    total_loss(model, images, samples)
    assert any(name.startswith("roi_head.bbox_head.1") for name in dtypes)
    assert {name for name, dtype in dtypes.items() if dtype != torch.bfloat16} == set()


def test_semantic_models():
    """mmseg calls `head.forward` itself, and keeps auxiliary heads in a list."""
    model = build(encoder_decoder(), scope="mmseg").train()
    dtypes = layer_dtypes(model)
    images, _ = draw_batch()
    sample = SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, SIZE, SIZE)))
    samples = [sample, copy.deepcopy(sample)]
    expected = total_loss(copy.deepcopy(model), images, samples)
    assert {"backbone", "decode_head"} <= set(autocast_modules(model))
    dtypes.clear()
    loss = total_loss(model, images, samples)
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert any(name.startswith("auxiliary_head.1") for name in dtypes)
    assert {name for name, dtype in dtypes.items() if dtype != torch.bfloat16} == set()
    with torch.no_grad():
        assert model.eval().encode_decode(images, [sample.metainfo] * 2).dtype == torch.float32


@torch.no_grad()
def test_calling_it_again_changes_the_dtype_and_nothing_else():
    model = build(retinanet()).eval()
    images, _ = draw_batch()
    parts = autocast_modules(model, torch.bfloat16)
    once = model._forward(images)
    assert autocast_modules(model, torch.bfloat16) == parts
    for one, two in zip(precision._tensors(once), precision._tensors(model._forward(images)), strict=True):
        assert torch.equal(one, two)
    dtypes = layer_dtypes(model)
    autocast_modules(model, torch.float16)
    model.backbone(images)
    assert set(dtypes.values()) == {torch.float16}


def first_output(model, images):
    with torch.no_grad():
        return model.bbox_head(model.neck(model.backbone(images)))[0][0]


def test_a_deep_copy_is_a_model_of_its_own():
    model = build(retinanet()).eval()
    images, _ = draw_batch()
    autocast_modules(model)
    duplicate = copy.deepcopy(model)
    before = first_output(model, images)
    assert torch.equal(first_output(duplicate, images), before)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert not torch.equal(first_output(duplicate, images), before)
    assert torch.equal(first_output(model, images), before)
    dtypes = layer_dtypes(duplicate)
    first_output(duplicate, images)
    assert set(dtypes.values()) == {torch.bfloat16}


def test_names_in_the_state_dict_stay():
    model = build(retinanet())
    names = list(model.state_dict())
    autocast_modules(model)
    assert list(model.state_dict()) == names


@pytest.fixture
def distributed(tmp_path):
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def run_hook(model, caplog, **options):
    """Two runs in a row, as a training and a test after it."""
    hook = HOOKS.build(dict(type="AutocastHook", **options))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            hook.before_run(SimpleNamespace(model=model, logger=logging.getLogger("precision")))


def test_hook_on_a_device_with_bfloat16(monkeypatch, caplog):
    monkeypatch.setattr(precision, "computes", lambda device, dtype: True)
    model = build(retinanet()).eval()
    dtypes = layer_dtypes(model)
    run_hook(model, caplog)
    first_output(model, draw_batch()[0])
    assert set(dtypes.values()) == {torch.bfloat16}
    assert "bfloat16 autocast in: backbone, neck, bbox_head" in caplog.text


def test_hook_on_a_device_without_leaves_the_model_alone(monkeypatch, caplog):
    monkeypatch.setattr(precision, "computes", lambda device, dtype: False)
    model = build(retinanet()).eval()
    dtypes = layer_dtypes(model)
    run_hook(model, caplog)
    first_output(model, draw_batch()[0])
    assert set(dtypes.values()) == {torch.float32}
    assert "no native bfloat16 on this cpu" in caplog.text
    assert all("forward" not in vars(module) for module in model.modules())


def test_hook_sees_through_distributed_data_parallel(monkeypatch, caplog, distributed):
    monkeypatch.setattr(precision, "computes", lambda device, dtype: True)
    model = build(retinanet()).train()
    dtypes = layer_dtypes(model)
    images, samples = draw_batch()
    wrapped = MMDistributedDataParallel(model)
    run_hook(wrapped, caplog)
    assert "bfloat16 autocast in: backbone, neck, bbox_head" in caplog.text  # not "module.backbone"
    losses = wrapped(images, samples, mode="loss")
    model.parse_losses(losses)[0].backward()
    assert set(dtypes.values()) == {torch.bfloat16}
    assert next(model.parameters()).grad.isfinite().all()


@pytest.mark.parametrize(
    ("capability", "bfloat16", "float16"),
    [
        ("avx512_bf16", True, False),
        ("amx_bf16", True, False),
        ("avx512_fp16", False, True),
        ("amx_fp16", False, True),
        ("avx2", False, False),
    ],
)
def test_cpu_computes_what_it_has_the_instructions_for(monkeypatch, capability, bfloat16, float16):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert precision.computes(torch.device("cpu"), torch.bfloat16) is bfloat16
    assert precision.computes(torch.device("cpu"), torch.float16) is float16


@pytest.mark.parametrize(("capability", "native"), [((6, 1), False), ((7, 0), True), ((9, 0), True)])
def test_gpus_compute_float16_from_volta_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.computes(torch.device("cuda"), torch.float16) is native


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_devices_stay_at_float32(dtype):
    assert not precision.computes(torch.device("mps"), dtype)


def test_hook_computes_in_float16_where_the_device_does(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(precision, "computes", lambda device, dtype: asked.append(dtype) or True)
    model = build(retinanet()).eval()
    dtypes = layer_dtypes(model)
    run_hook(model, caplog, dtype="float16")
    outputs = first_output(model, draw_batch()[0])
    assert set(asked) == {torch.float16} and set(dtypes.values()) == {torch.float16}
    assert outputs.dtype == torch.float32
    assert "float16 autocast in: backbone, neck, bbox_head" in caplog.text


def test_hook_names_the_types_it_knows():
    with pytest.raises(ValueError, match="dtype 'float32' is neither bfloat16 nor float16; float32 needs no hook"):
        HOOKS.build(dict(type="AutocastHook", dtype="float32"))


@pytest.mark.parametrize("covered", [False, True])
def test_exchanging_a_forward_keeps_autocast_around_it(covered):
    model = build(retinanet()).eval()
    images, _ = draw_batch()
    if covered:
        autocast_modules(model)
    plain, ran = first_output(model, images), []

    def exchange(forward):
        return lambda *inputs: ran.append(torch.is_autocast_enabled("cpu")) or forward(*inputs)

    precision.exchange_forward(model.backbone, exchange)
    assert torch.equal(first_output(model, images), plain)
    assert ran == [covered]


def test_deformable_attention_of_mmcv_stays_in_float32():
    """Its kernel takes no bfloat16."""
    head = nn.Module()
    sizes = dict(embed_dims=32, num_heads=2, num_levels=1, num_points=2)
    head.attention = MultiScaleDeformableAttention(**sizes, batch_first=True).eval()
    for _ in range(2):
        assert autocast_modules(nn.ModuleDict(dict(decode_head=head))) == ["decode_head"]
    seen = []
    head.attention.value_proj.register_forward_hook(lambda _, __, value: seen.append(value.dtype))
    query = torch.randn(1, 12, 32).bfloat16()
    places = dict(reference_points=torch.rand(1, 12, 1, 2), level_start_index=torch.tensor([0]))
    places["spatial_shapes"] = torch.tensor([[3, 4]])
    with torch.autocast("cpu", torch.bfloat16):
        found = head.attention(query, value=query, **places)
    assert seen == [torch.float32]
    expected = MultiScaleDeformableAttention.forward(head.attention, query.float(), value=query.float(), **places)
    torch.testing.assert_close(found, expected)


@pytest.fixture
def kept_tf32():
    """Restores the process's settings."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("on", [True, False])
def test_tf32_is_for_gpus_and_leaves_cpus_alone(on, kept_tf32):
    on_cpu = torch.backends.mkldnn.matmul.fp32_precision
    precision.use_tf32(on)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
    assert torch.backends.mkldnn.matmul.fp32_precision == on_cpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: TF32 rounds nothing")
def test_tf32_rounds_products_on_a_gpu(kept_tf32):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU is older than Ampere: it has no TF32")
    factors = torch.randn(2, 256, 256, device="cuda")
    products = []
    for on in (False, True):
        precision.use_tf32(on)
        products.append(factors[0] @ factors[1])
    assert not torch.equal(*products)
    assert torch.allclose(*products, atol=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: float16 trains there")
def test_a_float16_step_on_a_gpu(caplog):
    model = build(retinanet()).cuda().train()
    dtypes = layer_dtypes(model)
    run_hook(model, caplog, dtype="float16")
    images, samples = draw_batch()
    loss = total_loss(model, images.cuda(), [sample.to("cuda") for sample in samples])
    loss.backward()
    assert set(dtypes.values()) == {torch.float16}
    assert loss.isfinite()
