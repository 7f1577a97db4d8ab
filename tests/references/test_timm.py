"""The trunks against the models of timm, weight for weight, in float32; README.md here says what it needs."""

import pytest
import torch

from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS, ViTArch
from hybrid_dense.trunks import ResNeXt, ViT

timm = pytest.importorskip("timm", reason="timm is not installed; see tests/references/README.md")

SMALL = VIT_ARCHS["s"]
SMALL_14 = ViTArch(dim=384, depth=12, heads=6, patch=14)
SCALED = dict(class_token=True, layer_scale=1e-5)
DINOV3 = dict(SCALED, registers=4, positions="rope", norm_eps=1e-5)

# name: (what timm makes it with, sizes of our trunk, its options)
VITS = {
    "vit_small_patch16_224": (dict(img_size=64), SMALL, dict(class_token=True)),
    "deit_small_distilled_patch16_224": (dict(img_size=64), SMALL, dict(class_token=True, registers=1)),
    "vit_small_patch14_dinov2": (dict(img_size=56), SMALL_14, SCALED),
    "vit_small_patch14_reg4_dinov2": (dict(img_size=56), SMALL_14, dict(SCALED, registers=4)),
    "vit_small_patch16_dinov3": (dict(img_size=64), SMALL, DINOV3),
    # The giant's SwiGLU at a depth and width that fit a test.
    "vit_giant_patch14_dinov2": (
        dict(img_size=56, embed_dim=96, depth=4, num_heads=3),
        ViTArch(dim=96, depth=4, heads=3, patch=14),
        dict(SCALED, mlp="swiglu"),
    ),
    "vit_base_patch16_clip_224": (
        dict(img_size=64, embed_dim=96, depth=4, num_heads=3),
        ViTArch(dim=96, depth=4, heads=3),
        dict(class_token=True, norm_pre=True, norm_eps=1e-5),
    ),
}


def build(name):
    config, arch, options = VITS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, **config)
    return model, ViT(arch, window=0, native_size=4, **options)


def patch_tokens(model, images):
    tokens = model.forward_features(images)[:, model.num_prefix_tokens :]  # class, distillation and register tokens
    size = [side // patch for side, patch in zip(images.shape[-2:], model.patch_embed.patch_size, strict=True)]
    return tokens.transpose(1, 2).unflatten(2, size)


def picture(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_timm_vit_equals(name, perturb, filled, same):
    model, trunk = build(name)
    filled(trunk, perturb(model))
    images = picture(4 * trunk.patch_embed.patch, 4 * trunk.patch_embed.patch)
    same(trunk(images), patch_tokens(model, images))


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vit_small_patch16_dinov3"])
def test_timm_gradients_of_the_image_equal(name, perturb, filled, same):
    model, trunk = build(name)
    filled(trunk, perturb(model))
    gradients = []
    for compute in (trunk, lambda images: patch_tokens(model, images)):
        images = picture(64, 64).requires_grad_()
        (compute(images) * torch.linspace(-1, 1, 384)[:, None, None]).sum().backward()
        gradients.append(images.grad)
    same(*gradients, "gradients of the image")


@torch.no_grad()
def test_timm_positions_are_resampled_alike(perturb, filled, same):
    """Learned positions at 5 × 7 from 4 × 4, both bicubic with antialiasing."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_small_patch16_224", pretrained=False, num_classes=0, img_size=64, dynamic_img_size=True
    )
    trunk = filled(ViT(SMALL, window=0, native_size=4, class_token=True), perturb(model))
    images = picture(80, 112)
    same(trunk(images), patch_tokens(model, images))


def assert_same_stages(trunk, model, images, same):
    references = model.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
    for stage, (ours, theirs) in enumerate(zip(trunk(images), references, strict=True), start=1):
        same(ours, theirs, f"stage {stage}")


@pytest.mark.parametrize("size", [(64, 96), (67, 33)], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("name", "row"), [("resnet50", "r50"), ("resnext50_32x4d", "rx50"), ("resnext101_32x4d", "rx101")]
)
@torch.no_grad()
def test_timm_resnet_equals(name, row, size, perturb, filled, same):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    trunk = filled(ResNeXt(CNN_ARCHS[row]), perturb(model))
    assert_same_stages(trunk, model, picture(*size), same)


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_timm_dilated_resnet_equals(output_stride, perturb, filled, same):
    torch.manual_seed(0)
    model = timm.create_model("resnet50", pretrained=False, num_classes=0, output_stride=output_stride)
    trunk = filled(ResNeXt(CNN_ARCHS["r50"], output_stride=output_stride), perturb(model))
    assert_same_stages(trunk, model, picture(67, 96), same)


@torch.no_grad()
def test_timm_deep_stem_equals(perturb, same):
    """ResNet-D has pooled shortcuts too, which these trunks do not: the stems alone are compared."""
    torch.manual_seed(0)
    model = perturb(timm.create_model("resnet50d", pretrained=False, num_classes=0))
    trunk = ResNeXt(CNN_ARCHS["r50"], deep_stem=True).eval()
    stem = {name: value for name, value in model.state_dict().items() if name.startswith(("conv1.", "bn1."))}
    missing, unexpected = trunk.load_state_dict(stem, strict=False)
    assert not unexpected
    assert all(name.startswith("layer") for name in missing)
    images = picture(67, 96)
    same(trunk.stem(images), model.maxpool(model.act1(model.bn1(model.conv1(images)))))


@torch.no_grad()
def test_timm_resnet_with_a_deep_stem_equals(perturb, filled, same):
    torch.manual_seed(0)
    model = timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, (3, 4, 6, 3), num_classes=0, stem_width=32, stem_type="deep"
    )
    trunk = filled(ResNeXt(CNN_ARCHS["r50"], deep_stem=True), perturb(model))
    assert_same_stages(trunk, model, picture(67, 96), same)
