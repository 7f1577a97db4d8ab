"""Real models of other libraries: their weights are recognised, and the trunk then computes what they compute."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hybrid_dense.archs import CNN_ARCHS, CNNArch, ViTArch
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights import convert
from hybrid_dense.weights.sources import read_source

SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=128, image_size=64)
SCALED = dict(class_token=True, layer_scale=1e-5)
SWIGLU = dict(use_swiglu_ffn=True, mlp_ratio=4)

# model, config beside SIZES, layout, options of our trunk
VIT_MODELS = [
    ("ViT", {}, "transformers ViT or ViTMAE", dict(class_token=True, norm_eps=1e-12)),
    ("DeiT", {}, "transformers DeiT", dict(class_token=True, registers=1, norm_eps=1e-12)),
    ("Dinov2", dict(patch_size=14, image_size=56, layerscale_value=0.5), "transformers DINOv2", SCALED),
    ("Dinov2", dict(SWIGLU, layerscale_value=0.5), "transformers DINOv2", dict(SCALED, mlp="swiglu")),
    (
        "Dinov2WithRegisters",
        dict(patch_size=14, image_size=56, mlp_ratio=4, num_register_tokens=4, layerscale_value=0.5),
        "transformers DINOv2",
        dict(SCALED, registers=4),
    ),
    (
        "DINOv3ViT",
        dict(num_register_tokens=4, layerscale_value=0.5),
        "transformers DINOv3",
        dict(SCALED, registers=4, positions="rope", norm_eps=1e-5),
    ),
    (
        "Beit",
        dict(use_absolute_position_embeddings=True, layer_scale_init_value=0.5, use_mean_pooling=False),
        "transformers BEiT without relative positions",
        dict(SCALED, norm_eps=1e-12),
    ),
]


def randomise(model: nn.Module) -> nn.Module:
    """Replace everything that starts as zero or one, so that a value in the wrong place would be seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() < 4:
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.1)
    model.eval()  # mmdet's returns nothing
    return model


def images(side: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "as saved"])
@pytest.mark.parametrize(("kind", "config", "layout", "options"), VIT_MODELS)
def test_vits_of_transformers(kind, config, layout, options, stored, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**dict(SIZES, patch_size=16) | config)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    if stored:
        model.save_pretrained(tmp_path)
    arch = ViTArch(dim=32, depth=4, heads=2, patch=config.patch_size)
    trunk = ViT(arch, window=0, native_size=4, **options).eval()
    conversion = convert(read_source(tmp_path) if stored else model.state_dict(), trunk)
    assert conversion.coverage.layout == layout
    trunk.load_state_dict(conversion.weights)
    batch = images(config.image_size)
    with torch.no_grad():
        tokens = model(batch).last_hidden_state[:, -16:]
        assert_close(trunk(batch), tokens.transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-5)


def test_vit_mae_of_transformers_gives_its_encoder():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(**SIZES, decoder_hidden_size=16, decoder_num_attention_heads=2)
    state = randomise(transformers.ViTMAEForPreTraining(config)).state_dict()
    coverage = convert(state, ViT(ViTArch(dim=32, depth=4, heads=2), class_token=True, native_size=4)).coverage
    assert coverage.layout == "transformers ViT or ViTMAE" and coverage.coverage == 1
    assert coverage.unexpected == tuple(name for name in state if name.startswith("decoder."))


def test_beit_leaves_its_relative_positions_behind_and_says_so():
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(**SIZES, patch_size=16, use_relative_position_bias=True)
    state = transformers.BeitForImageClassification(config).state_dict()
    trunk = ViT(ViTArch(dim=32, depth=4, heads=2), positions="none", **SCALED)
    coverage = convert(state, trunk).coverage
    assert coverage.missing == ("norm.weight", "norm.bias")
    assert len([name for name in coverage.unexpected if "relative_position" in name]) == 4
    assert (
        "parts that our blocks lack change the features until trained (blocks.*.relative_position_bias" in coverage.hint
    )


def test_vit_of_mmseg():
    backbones = pytest.importorskip("mmseg.models.backbones")
    sizes = dict(img_size=64, patch_size=16, embed_dims=32, num_layers=4, num_heads=2)
    model = randomise(backbones.VisionTransformer(**sizes, final_norm=True, norm_cfg=dict(type="LN", eps=1e-6)))
    trunk = ViT(ViTArch(dim=32, depth=4, heads=2), window=0, native_size=4, class_token=True).eval()
    conversion = convert(model.state_dict(), trunk)
    assert conversion.coverage.layout == "mmpretrain / mmseg ViT" and conversion.coverage.coverage == 1
    trunk.load_state_dict(conversion.weights)
    with torch.no_grad():
        assert_close(trunk(images(64)), model(images(64))[-1], atol=1e-5, rtol=1e-5)


def test_resnet_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[64, 128, 256, 512], depths=[1, 2, 1, 2])
    model = randomise(transformers.ResNetForImageClassification(config))
    trunk = ResNeXt(CNNArch((1, 2, 1, 2), width=16)).eval()
    conversion = convert(model.state_dict(), trunk)
    assert conversion.coverage.layout == "transformers ResNet" and conversion.coverage.coverage == 1
    assert conversion.coverage.unexpected == ("classifier.1.weight", "classifier.1.bias")
    trunk.load_state_dict(conversion.weights)
    with torch.no_grad():
        pyramid = model.resnet(images(64), output_hidden_states=True).hidden_states[1:]
        assert_close(trunk(images(64)), tuple(pyramid), atol=1e-5, rtol=1e-5)


MMDET = [
    ("ResNeXt", dict(groups=32, base_width=4), "rx50", {}, "torchvision / timm / mmdet / mmpretrain ResNet or ResNeXt"),
    ("ResNet", {}, "r50", {}, "torchvision / timm / mmdet / mmpretrain ResNet or ResNeXt"),
    ("ResNet", dict(deep_stem=True), "r50", dict(deep_stem=True), "mmdet / mmseg ResNet with a deep stem"),
]


@pytest.mark.parametrize(("kind", "config", "row", "options", "layout"), MMDET)
def test_cnns_of_mmdet(kind, config, row, options, layout):
    backbones = pytest.importorskip("mmdet.models.backbones")
    torch.manual_seed(0)
    model = getattr(backbones, kind)(depth=50, style="pytorch", **config)
    trunk = ResNeXt(CNN_ARCHS[row], **options).eval()
    conversion = convert({f"backbone.{name}": value for name, value in randomise(model).state_dict().items()}, trunk)
    assert conversion.coverage.layout == layout and conversion.coverage.coverage == 1
    assert conversion.coverage.unexpected == conversion.coverage.missing == ()
    trunk.load_state_dict(conversion.weights)
    with torch.no_grad():
        for ours, theirs in zip(trunk(images(64, 1)), model(images(64, 1)), strict=True):
            assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_pooled_shortcuts_do_not_pass_for_plain_ones():
    backbones = pytest.importorskip("mmdet.models.backbones")
    coverage = convert(backbones.ResNetV1d(depth=50).state_dict(), ResNeXt(CNN_ARCHS["r50"])).coverage
    assert coverage.coverage < 0.95
    assert "build the backbone with deep_stem=True; parts that our blocks lack" in coverage.hint
