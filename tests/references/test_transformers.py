"""The trunks against the models of transformers, weight for weight, in float32."""

from dataclasses import replace

import pytest
import torch

from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS, ViTArch
from hybrid_dense.layers.position import sine_positions
from hybrid_dense.trunks import ResNeXt, ViT

transformers = pytest.importorskip("transformers")

ARCHS = {"narrow": ViTArch(dim=48, depth=4, heads=3), "s": VIT_ARCHS["s"]}
SCALED = dict(class_token=True, layer_scale=1e-5)

# model: (its config beside the sizes, patch, options of our trunk)
MODELS = {
    "ViT": ({}, 16, dict(class_token=True)),
    "DeiT": ({}, 16, dict(class_token=True, registers=1)),
    "Dinov2": (dict(mlp_ratio=4), 14, SCALED),
    "Dinov2-swiglu": (dict(mlp_ratio=4, use_swiglu_ffn=True), 14, dict(SCALED, mlp="swiglu")),
    "Dinov2WithRegisters": (dict(mlp_ratio=4, num_register_tokens=4), 14, dict(SCALED, registers=4)),
    "Dinov2WithRegisters-swiglu": (
        dict(mlp_ratio=4, num_register_tokens=4, use_swiglu_ffn=True),
        14,
        dict(SCALED, registers=4, mlp="swiglu"),
    ),
    "DINOv3ViT": (
        dict(num_register_tokens=4, layer_norm_eps=1e-5),
        16,
        dict(SCALED, registers=4, positions="rope", norm_eps=1e-5),
    ),
    "ViTMAE": (dict(mask_ratio=0.0), 16, dict(class_token=True)),
}
TOKENS = 4
"""Side of the grid for which the models are made."""


def build(kind, row):
    """A model of transformers and the empty trunk that is to equal it."""
    config, patch, options = MODELS[kind]
    arch = replace(ARCHS[row], patch=patch)
    kind = kind.partition("-")[0]
    options = {"norm_eps": 1e-6, **options}
    config = dict(
        hidden_size=arch.dim,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.heads,
        intermediate_size=4 * arch.dim,
        image_size=TOKENS * patch,
        patch_size=patch,
        layer_norm_eps=options["norm_eps"],
        **{name: value for name, value in config.items() if name != "layer_norm_eps"},
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))
    return model, ViT(arch, window=0, native_size=TOKENS, **options)


def patch_tokens(model, images):
    """The last hidden state of the image's tokens as a grid (b, d, h, w)."""
    patch = model.config.patch_size
    size = [side // patch for side in images.shape[-2:]]
    count = size[0] * size[1]
    # MAE shuffles by sorting noise: rising noise leaves every patch in its place.
    order = dict(noise=torch.arange(count).expand(len(images), -1)) if model.config.model_type == "vit_mae" else {}
    return model(images, **order).last_hidden_state[:, -count:].transpose(1, 2).unflatten(2, size)


def mae(**config):
    """A ViTMAE with its sines, which a fresh one of transformers 5.23 lacks: it takes them for initialised already."""
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(mask_ratio=0.0, **config))
    model.embeddings.patch_embeddings.projection._is_hf_initialized = False
    model.embeddings.initialize_weights()
    return model


def picture(trunk, *size):
    patch = trunk.patch_embed.patch
    return torch.randn(2, 3, *(tokens * patch for tokens in size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("row", ARCHS)
@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_vit_equals(kind, row, perturb, filled, same):
    model, trunk = build(kind, row)
    filled(trunk, perturb(model))
    images = picture(trunk, TOKENS, TOKENS)
    same(trunk(images), patch_tokens(model, images))


@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_the_image_equal(kind, attention, perturb, filled, same):
    model, _ = build(kind, "narrow")
    config, patch, options = MODELS[kind]
    trunk = ViT(
        replace(ARCHS["narrow"], patch=patch),
        **{"window": 0, "native_size": TOKENS, "attention": attention, "norm_eps": 1e-6, **options},
    )
    filled(trunk, perturb(model))
    gradients = []
    for compute in (trunk, lambda images: patch_tokens(model, images)):
        images = picture(trunk, TOKENS, TOKENS).requires_grad_()
        # A plain sum of normalised tokens would have no gradient.
        (compute(images) * torch.linspace(-1, 1, 48)[:, None, None]).sum().backward()
        gradients.append(images.grad)
    same(*gradients, "gradients of the image")


@pytest.mark.parametrize("row", ARCHS)
@pytest.mark.parametrize("size", [(5, 7), (2, 9)])
@torch.no_grad()
def test_rotary_positions_equal_on_any_grid(size, row, perturb, filled, same):
    model, trunk = build("DINOv3ViT", row)
    filled(trunk, perturb(model))
    images = picture(trunk, *size)
    same(trunk(images), patch_tokens(model, images))


@pytest.mark.parametrize("row", ARCHS)
@torch.no_grad()
def test_sine_positions_and_encoder_of_mae(row, perturb, filled, same):
    """MAE's table is fixed: our trunk computes what it reads from the file."""
    arch = ARCHS[row]
    torch.manual_seed(0)
    model = mae(
        hidden_size=arch.dim,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.heads,
        intermediate_size=4 * arch.dim,
        image_size=16 * TOKENS,
        layer_norm_eps=1e-6,
    )
    trunk = ViT(arch, window=0, native_size=TOKENS, class_token=True, positions="sine")
    filled(trunk, perturb(model, keep=("position_embeddings",)))
    table = model.embeddings.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (TOKENS, TOKENS))
    same(sine_positions(arch.dim, (TOKENS, TOKENS), TOKENS), table, "positions")
    images = picture(trunk, TOKENS, TOKENS)
    same(trunk(images), patch_tokens(model, images))


@torch.no_grad()
def test_sine_positions_of_a_large_grid(same):
    model = mae(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=640)
    table = model.embeddings.position_embeddings[:, 1:]
    same(sine_positions(64, (40, 40), 40), table.transpose(1, 2).unflatten(2, (40, 40)), "positions")


@pytest.mark.parametrize("size", [(64, 96), (67, 33)], ids=["even", "odd"])
@pytest.mark.parametrize("row", ["r18", "r50"])
@torch.no_grad()
def test_resnet_equals(row, size, perturb, filled, same):
    torch.manual_seed(0)
    arch = CNN_ARCHS[row]
    layers = dict(layer_type="basic" if arch.expansion == 1 else "bottleneck", depths=list(arch.blocks))
    widths = [feature.channels for feature in arch.features]
    model = transformers.ResNetModel(transformers.ResNetConfig(**layers, hidden_sizes=widths))
    trunk = filled(ResNeXt(arch), perturb(model))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    maps = trunk(images)
    references = model(images, output_hidden_states=True).hidden_states[1:]
    for stage, (ours, theirs) in enumerate(zip(maps, references, strict=True), start=1):
        same(ours, theirs, f"stage {stage}")
