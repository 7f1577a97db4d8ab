"""What cannot be a weight is one line that names it, and the backbone is as it was."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights import convert, load_pretrained

hybrid_dense.register_all_modules()


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", **options))


def cnn_file() -> dict:
    torch.manual_seed(1)
    return ResNeXt(CNN_ARCHS["rxnano"]).state_dict()


def vit_file(**options) -> dict:
    torch.manual_seed(1)
    return ViT(VIT_ARCHS["pico"], class_token=True, **options).state_dict()


def split(state: dict) -> dict:
    """Query, key and value apart, and positions of the class token, as in files that need assembling."""
    query, key, value = state.pop("blocks.2.attn.qkv.weight").chunk(3)
    parts = {"blocks.2.attn.q.weight": query, "blocks.2.attn.k.weight": key, "blocks.2.attn.v.weight": value}
    return state | parts | {"pos_embed": torch.cat((state["cls_token"], state["pos_embed"]), 1)}


def refuses(message, backbone=None, **files):
    backbone = build() if backbone is None else backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(backbone, min_coverage=0, **files)
    assert "\n" not in str(error.value)
    assert_close(backbone.state_dict(), before, rtol=0, atol=0)


def with_nan(value):
    value = value.clone()
    value.view(-1)[-1] = torch.nan
    return value


KINDS = {
    "is on the meta device": lambda value: value.to("meta"),
    "is no dense tensor": lambda value: value.to_sparse(),
    r"is of torch\.int8": lambda value: value.to(torch.int8),
    r"is of torch\.complex64": lambda value: value.to(torch.complex64),
    r"is of torch\.float8_e4m3fn": lambda value: value.to(torch.float8_e4m3fn),
    "holds NaN or infinite values": with_nan,
    "holds NaN or infinite values;": lambda value: torch.full_like(value, torch.inf),
}


@pytest.mark.parametrize(("message", "spoil"), KINDS.items(), ids=range(len(KINDS)))
@pytest.mark.parametrize("name", ["layer4.0.conv3.weight", "bn1.running_var"])
def test_values_that_are_no_real_numbers_of_a_cnn(message, spoil, name):
    state = cnn_file()
    state[name] = spoil(state[name])
    refuses(rf"^state dict: {name} {message}", vit=vit_file(), cnn=state)


@pytest.mark.parametrize(("message", "spoil"), KINDS.items(), ids=range(len(KINDS)))
@pytest.mark.parametrize(
    "name", ["cls_token", "blocks.3.mlp.fc2.weight", "blocks.2.attn.k.weight", "pos_embed", "blocks.1.ls1.gamma"]
)
def test_values_that_are_no_real_numbers_of_a_vit(message, spoil, name):
    """Also what is taken apart, joined or folded before it has a parameter's name."""
    state = split(vit_file(layer_scale=0.1))
    state[name] = spoil(state[name])
    refuses(rf"^state dict: {name} {message}", cnn=cnn_file(), vit=state)


def test_what_has_no_place_may_be_anything():
    extra = {"fc.weight": torch.full((2, 2), torch.nan), "fc.bias": torch.ones(2, device="meta")}
    assert load_pretrained(build(), cnn=cnn_file() | extra).cnn.coverage == 1
    extra = {"blocks.0.attn.relative_position_index": torch.ones(3, dtype=torch.int64)}
    assert load_pretrained(build(class_token=True), vit=vit_file() | extra).vit.coverage == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast(dtype):
    backbone, state = build(), {name: value.to(dtype) for name, value in cnn_file().items()}
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    load_pretrained(backbone, cnn=state)
    assert_close(backbone.cnn.conv1.weight, state["conv1.weight"].float())
    assert backbone.cnn.bn1.num_batches_tracked.tolist() == 7


def test_float64_beyond_float32_is_infinite():
    large = torch.full((16,), 1e300, dtype=torch.float64)
    refuses("bn1.weight holds NaN or infinite", cnn=cnn_file() | {"bn1.weight": large})


@pytest.mark.parametrize("family", ["cnn", "vit"])
def test_a_trunk_on_the_meta_device_is_refused(family):
    trunk = getattr(build().to("meta"), family)
    with pytest.raises(ValueError, match="trunk is on the meta device, which holds no values; build it") as error:
        convert({"cnn": cnn_file, "vit": vit_file}[family](), trunk)
    assert "\n" not in str(error.value)


SHAPES = [
    ("cnn", "layer1.0.conv2.weight", (64,), "64, not any×any×any×any"),
    ("cnn", "layer3.0.conv1.weight", (0, 1), "0×1"),
    ("cnn", "layer1.0.conv2.weight", (64, 0, 3, 3), "64×0×3×3"),
    ("cnn", "bn1.weight", (), "scalar, not any;"),
    ("cnn", "layer2.0.bn2.running_mean", (), "scalar, not any;"),
    ("vit", "blocks.0.norm1.weight", (), "scalar"),
    ("vit", "blocks.1.norm2.bias", (), "scalar, not 96"),
    ("vit", "blocks.1.norm2.weight", (95,), "95, not 96"),
    ("vit", "norm.bias", (), "scalar, not any"),
    ("vit", "blocks.1.attn.qkv.bias", (), "scalar"),
    ("vit", "blocks.1.mlp.fc1.weight", (), "scalar, not any×96"),
    ("vit", "blocks.0.mlp.fc2.weight", (384,), "384, not 96×any"),
    ("vit", "blocks.1.attn.proj.weight", (8, 96), "8×96, not 96×any"),
    ("vit", "blocks.1.ls1.gamma", (), "scalar, not 96"),
    ("vit", "blocks.1.ls1.gamma", (1,), "1, not 96"),
    ("vit", "cls_token", (1, 1, 48), "1×1×48, not 1×any×96"),
    ("vit", "cls_token", (1, 1, 1), "1×1×1, not 1×any×96"),
    ("vit", "cls_token", (96,), "96, not 1×any×96"),
    ("vit", "reg_token", (1, 2, 48), "1×2×48"),
    ("vit", "pos_embed", (1, 0, 96), "1×0×96"),
    ("vit", "patch_embed.proj.weight", (), "scalar"),
    ("vit", "patch_embed.proj.weight", (96, 0, 16, 16), "96×0×16×16"),
    ("vit", "blocks.2.attn.k.weight", (96, 95), "96×95, not any×96"),
]


@pytest.mark.parametrize(("family", "name", "sides", "message"), SHAPES)
def test_malformed_shapes(family, name, sides, message):
    files = {"cnn": cnn_file(), "vit": split(vit_file(layer_scale=0.1))}
    files[family][name] = torch.ones(sides)
    refuses(rf"^state dict: {name} has shape {message}", **files)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("pos_embed", (2, 49, 96)),
        ("pos_embed", (1, 197, 48)),
        ("pos_embed", (1, 14, 14, 96)),  # as SAM stores it
        ("patch_embed.proj.weight", (96, 5, 14, 14)),
        ("blocks.1.mlp.fc1.weight", (200, 96)),
        ("patch_embed.proj.weight", (96, 3, 2, 16, 16)),  # of videos
        ("norm.weight", (95,)),
        ("norm.bias", (1, 96)),
        ("layer4.0.downsample.1.weight", (1, 2, 1, 1)),  # a convolution in ResNet-D
        ("layer3.0.conv1.weight", (64,)),
        ("bn1.num_batches_tracked", (3,)),
    ],
)
def test_other_sizes_are_mismatched(name, sides):
    files = {"cnn": cnn_file(), "vit": vit_file()}
    state = next(state for state in files.values() if name in state)
    state[name] = torch.ones(sides)
    report = load_pretrained(build(class_token=True), **files, min_coverage=0)
    assert report.cnn.mismatched + report.vit.mismatched == (name,)


def test_groups_that_cannot_be():
    state = cnn_file() | {"layer1.0.conv2.weight": torch.ones(64, 100, 3, 3)}
    refuses("state dict is a CNN of .*, the trunk has", cnn=state)


def test_an_empty_register_table_is_none():
    """transformers' DINOv3 without registers stores one."""
    report = load_pretrained(build(class_token=True), vit=vit_file() | {"reg_token": torch.ones(1, 0, 96)})
    assert report.vit.coverage == 1 and report.vit.hint == ""
