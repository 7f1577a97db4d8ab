"""Every layout is told by its names, under any wrapper, and its values arrive where they belong.

The tables below were written from the libraries' own models, not from the rules under test.
"""

import re

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.archs import CNNArch, ViTArch
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights import convert
from hybrid_dense.weights.layouts import unwrap

ARCH = ViTArch(dim=32, depth=4, heads=2)
SCALED = dict(class_token=True, layer_scale=1e-5)
ROTARY = dict(SCALED, registers=4, positions="rope", norm_eps=1e-5)

MMPRETRAIN = {
    "patch_embed.proj": "patch_embed.projection",
    "norm1": "ln1",
    "norm2": "ln2",
    "blocks": "layers",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
    "ls1.gamma": "attn.gamma1.weight",
    "ls2.gamma": "ffn.gamma2.weight",
}
MMSEG = {**MMPRETRAIN, "attn.qkv.": "attn.attn.in_proj_", "attn.proj": "attn.attn.out_proj"}
EVA = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}


def trunk(**options) -> ViT:
    torch.manual_seed(0)
    return ViT(ARCH, window=0, native_size=4, **options)


def draw(like: dict) -> dict:
    """Other random values of the same names and shapes."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(value.shape, generator=generator) for name, value in like.items()}


def renamed(state: dict, table: dict, **final) -> dict:
    def rename(name):
        if name.startswith("norm."):
            return name.replace("norm", final.get("norm", "norm"))
        for ours, theirs in table.items():
            name = name.replace(ours, theirs)
        return name

    return {rename(name): value for name, value in state.items()}


def with_class_position(state: dict, tokens=("cls_token",)) -> dict:
    """The position table with a row for each of ``tokens``, which hold what is left without it."""
    rows = draw({"x": torch.empty(1, len(tokens), ARCH.dim)})["x"]
    state = {**state, "pos_embed": torch.cat((rows, state["pos_embed"]), 1)}
    return {**state, **{name: state[name] - rows[:, [index]] for index, name in enumerate(tokens)}}


def split_bias(state: dict) -> dict:
    """query and value biases apart, no key bias (BEiT, EVA)."""
    out = {}
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            query, _, last = value.chunk(3)
            out.update({name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): last})
        else:
            out[name] = value
    return out


def without_key_bias(state: dict) -> dict:
    state = {name: value.clone() for name, value in state.items()}
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            value[len(value) // 3 : 2 * len(value) // 3] = 0
    return state


def expected(options) -> dict:
    return draw(trunk(**options).state_dict())


def timm(want):
    return with_class_position(want)


def clip(want):
    return {name: value for name, value in timm(want).items() if name != "patch_embed.proj.bias"}


def without_patch_bias(state: dict) -> dict:
    return {**state, "patch_embed.proj.bias": torch.zeros(32)}


def distilled(want):
    state = {**want, "dist_token": want["reg_token"]}
    del state["reg_token"]
    return with_class_position(state, ("cls_token", "dist_token")) | {"head_dist.weight": torch.ones(9, 32)}


def dinov2_hub(want):
    state = {"register_tokens" if name == "reg_token" else name: value for name, value in want.items()}
    return with_class_position(state) | {"mask_token": torch.ones(1, 32)}


def dinov2_swiglu(want):
    return {name.replace("fc1", "w12").replace("fc2", "w3"): value for name, value in dinov2_hub(want).items()}


def dinov2_chunked(want):
    return {re.sub(r"^blocks\.(\d)", r"blocks.0.\1", name): value for name, value in dinov2_hub(want).items()}


def dinov3_hub(want):
    state = {"storage_tokens" if name == "reg_token" else name: value for name, value in want.items()}
    for name in [name for name in state if name.endswith("qkv.bias")]:
        mask = torch.ones(96)
        mask[32:64] = 0
        state[name] = torch.where(mask > 0, state[name], 7.0)  # the file's key bias is of no use
        state[f"{name}_mask"] = torch.where(mask > 0, mask, torch.nan)
    return state | {"rope_embed.periods": torch.ones(4), "mask_token": torch.ones(1, 32)}


def dinov3_hub_swiglu(want):
    state = {}
    for name, value in dinov3_hub(want).items():
        if "fc1" in name:
            state[name.replace("fc1", "w1")], state[name.replace("fc1", "w2")] = value.chunk(2)
        else:
            state[name.replace("fc2", "w3")] = value
    return state


def timm_dinov3(want):
    return split_bias(renamed(want, EVA))


def timm_dinov3_no_bias(want):
    return {name: value for name, value in renamed(want, EVA).items() if not name.endswith("qkv.bias")}


def timm_dinov3_swiglu(want):
    state = {}
    for name, value in timm_dinov3(want).items():
        if "fc1" in name:
            state[name.replace("fc1", "fc1_g")], state[name.replace("fc1", "fc1_x")] = value.chunk(2)
        else:
            state[name] = value
    return state


def beit(want):
    tables = {f"blocks.{i}.attn.relative_position_bias_table": torch.ones(52, 2) for i in range(4)}
    return split_bias(renamed(want, EVA)) | tables


def mae(want):
    return timm(want) | {"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(8, 32)} | {
        f"decoder_blocks.{i}.attn.qkv.weight": torch.ones(24, 8) for i in range(2)
    }  # fmt: skip


def mmpretrain(want):
    return renamed(timm(want), MMPRETRAIN, norm="ln1")


def mmpretrain_swiglu(want):
    return renamed(timm(want), MMPRETRAIN | {"mlp.fc1": "ffn.w12", "mlp.fc2": "ffn.w3"}, norm="ln1")


def mmpretrain_beit(want):
    return {name.replace("blocks", "layers"): value for name, value in renamed(beit(want), MMPRETRAIN | EVA).items()}


def mmseg(want):
    return renamed(timm(want), MMSEG, norm="ln1")


PLAIN = dict(class_token=True)
BEIT = dict(SCALED, positions="none")
LAYOUT_CASES = [
    ("timm ViT (AugReg, DeiT, DINO, MAE's encoder)", timm, PLAIN, None),
    ("timm CLIP", clip, dict(PLAIN, norm_pre=True, norm_eps=1e-5), without_patch_bias),
    ("distilled DeiT", distilled, dict(PLAIN, registers=1), None),
    ("timm DINOv2 or DeiT III", timm, SCALED, None),
    ("timm DINOv2 or DeiT III", dict, dict(SCALED, registers=4), None),
    ("DINOv2", dinov2_hub, dict(SCALED, registers=4), None),
    ("DINOv2", dinov2_swiglu, dict(SCALED, mlp="swiglu"), None),
    ("DINOv2", dinov2_chunked, SCALED, None),
    ("DINOv3", dinov3_hub, ROTARY, without_key_bias),
    ("DINOv3", dinov3_hub_swiglu, dict(ROTARY, mlp="swiglu"), without_key_bias),
    ("timm DINOv3", timm_dinov3, ROTARY, without_key_bias),
    ("timm DINOv3", timm_dinov3_swiglu, dict(ROTARY, mlp="swiglu"), without_key_bias),
    ("BEiT", beit, BEIT, without_key_bias),
    ("MAE", mae, PLAIN, None),
    ("mmpretrain / mmseg ViT", mmpretrain, PLAIN, None),
    ("mmpretrain / mmseg ViT", mmpretrain, SCALED, None),
    ("mmpretrain / mmseg ViT", mmpretrain_swiglu, dict(SCALED, mlp="swiglu"), None),
    ("mmpretrain / mmseg ViT", mmseg, PLAIN, None),
    ("mmpretrain / mmseg BEiT", mmpretrain_beit, BEIT, without_key_bias),
]
IDS = [f"{write.__name__}-{index}" for index, (_, write, _, _) in enumerate(LAYOUT_CASES)]
cases = pytest.mark.parametrize(("layout", "write", "options", "adjust"), LAYOUT_CASES, ids=IDS)


@cases
def test_values_arrive_where_they_belong(layout, write, options, adjust):
    want = expected(options)
    conversion = convert(write(want), trunk(**options))
    want = adjust(want) if adjust else want
    assert conversion.coverage.layout == layout
    assert conversion.weights.keys() == want.keys()
    for name in want:
        assert_close(
            conversion.weights[name], want[name], atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert conversion.coverage.coverage == 1 and not conversion.coverage.missing
    assert "build the backbone" not in conversion.coverage.hint, "everything in the file had its place"


@cases
def test_the_hint_names_the_options_that_the_file_needs(layout, write, options, adjust):
    hint = convert(write(expected(options)), trunk()).coverage.hint
    built = eval(f"dict({hint.partition('build the backbone with ')[2].partition(';')[0]})")
    assert built == {name: value for name, value in options.items() if name != "layer_scale"}, "folded exactly"
    assert "\n" not in hint


def test_layers_without_bias_get_one_of_zero():
    want = expected(ROTARY)
    weights = convert(timm_dinov3_no_bias(want), trunk(**ROTARY)).weights
    assert not any(weights[f"blocks.{i}.attn.qkv.bias"].any() for i in range(4))
    without = {name: value for name, value in timm(expected(PLAIN)).items() if name != "patch_embed.proj.bias"}
    assert not convert(without, trunk(**PLAIN)).weights["patch_embed.proj.bias"].any()


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "model.", "encoder.", "base_model.", "module.backbone.", "a.b.c."]
)
def test_any_prefix_is_stripped(prefix):
    want = expected(PLAIN)
    state = {f"{prefix}{name}": value for name, value in timm(want).items()} | {"head.weight": torch.ones(2, 32)}
    conversion = convert(state, trunk(**PLAIN))
    assert_close(conversion.weights["norm.bias"], want["norm.bias"])
    assert conversion.coverage.coverage == 1 and conversion.coverage.unexpected == ("head.weight",)


def test_containers_are_opened():
    want = timm(expected(PLAIN))
    other = draw({name: value + 1 for name, value in want.items()})
    for content in (
        {"state_dict": want, "epoch": 3},
        {"model": want, "model_ema": other},
        {"student": other, "teacher": {f"module.backbone.{name}": value for name, value in want.items()}},
        {"state_dict": {"module": want}},
        {"model_ema": want},
    ):
        assert_close(convert(content, trunk(**PLAIN)).weights["norm.bias"], want["norm.bias"])
    both = {f"student.{name}": value for name, value in other.items()}
    both |= {f"teacher.{name}": value for name, value in want.items()}
    assert_close(convert(both, trunk(**PLAIN)).weights["norm.bias"], want["norm.bias"])


def test_a_container_that_contains_itself_ends():
    content = {"epoch": 1}
    content["model"] = content
    assert unwrap(content) == {}


def test_trunks_of_a_trained_hybrid_are_found_in_its_checkpoint():
    vit, cnn = trunk(positions="rope"), ResNeXt(CNNArch((1, 1, 1, 1), 16, 8, 16))
    want, state = draw(vit.state_dict()), {}
    state |= {f"backbone.vit.{name}": value for name, value in want.items()}
    state |= {f"backbone.cnn.{name}": value for name, value in cnn.state_dict().items()}
    state |= {"neck.convs.0.weight": torch.ones(2)}
    into_vit, into_cnn = convert(state, vit), convert(state, cnn)
    assert into_vit.coverage.coverage == into_cnn.coverage.coverage == 1
    assert_close(into_vit.weights, want)
    assert into_vit.coverage.hint == ""


@pytest.mark.parametrize(
    "extra",
    [
        {"blocks.0.attn.q_bias", "pos_embed"},  # EVA-02
        {"blocks.0.attn.q_proj.weight", "pos_embed"},  # EVA-02, larger ones
        {"blocks.0.gamma_1", "blocks.0.attn.qkv.bias", "cls_token"},  # ViT-RoPE
        {"blocks.0.gamma_1", "reg_token"},  # ViT-RoPE with a register and no class token
    ],
)
def test_other_rotary_positions_are_refused(extra):
    names = {"patch_embed.proj.weight", "blocks.0.norm1.weight", *extra}
    with pytest.raises(ValueError, match="timm EVA-02 or ViT-RoPE weights, which cannot be used") as error:
        convert(dict.fromkeys(names, torch.ones(1)), trunk())
    assert "\n" not in str(error.value)


def test_what_is_not_known_is_refused_in_one_line():
    swin = {"patch_embed.projection.weight", "stages.0.blocks.0.norm1.weight"}
    timm_swin = {"patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight"}
    decoder = {"embeddings.patch_embeddings.projection.weight", "decoder.layers.0.layernorm_before.weight"}
    for names in (swin, timm_swin, decoder, {"x"}):
        with pytest.raises(ValueError, match="none of a known ViT: DINOv3; timm DINOv3") as error:
            convert(dict.fromkeys(names, torch.ones(1)), trunk(), "some.pth")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"some\.pth holds no weights; give a state dict"):
        convert({}, trunk(), "some.pth")
    cnn = dict.fromkeys({"embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.2.x"}, torch.ones(1))
    with pytest.raises(ValueError, match="none of a known CNN"):
        convert(cnn, ResNeXt(CNNArch((1, 1, 1, 1), 16, 8, 16)))
    with pytest.raises(ValueError, match=r"timm ViT .* weights, which are none of a known CNN"):
        convert(timm(expected(PLAIN)), ResNeXt(CNNArch((1, 1, 1, 1), 16, 8, 16)))
