"""The layouts: how each library names the weights of a ResNet or a ViT, how a file of it is told, and our names for it.

A layout is one row of ``LAYOUTS``. It is told by the names alone: ``sign`` finds one name that every file of it has,
and with it the prefix that a wrapper put before all names (``module.backbone.``, ``vit.``, …); each of ``marks`` must
be found among the names without the prefix, none of ``absent`` may. The first row that fits is taken, so the special
ones come first. ``renames`` are regular expressions applied to each name in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

# Where a checkpoint keeps its weights. DINO's teacher is the average that its authors evaluate.
CONTAINERS = (
    "state_dict",
    "model",
    "teacher",
    "student",
    "model_ema",
    "state_dict_ema",
    "module",
    "backbone",
    "encoder",
)
NESTING = 4


@dataclass(frozen=True)
class Layout:
    """One row of the table.

    Attributes:
        name: for reports.
        family: the trunk that it is for, ``"cnn"`` or ``"vit"``.
        sign, marks, absent, renames: see the module.
        options: what a trunk must be built with beside what the names tell.
        refusal: why a network of this layout cannot be computed by ours.
    """

    name: str
    family: str
    sign: str
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    renames: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    refusal: str = ""

    def fits(self, names: Iterable[str]) -> bool:
        """Whether names, without their prefix, are of this layout."""
        text = "\n".join(names)
        return all(re.search(mark, text, re.M) for mark in self.marks) and not any(
            re.search(pattern, text, re.M) for pattern in self.absent
        )

    def rename(self, name: str) -> str:
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


def count_from_one(form: str) -> Callable[[re.Match], str]:
    """A replacement in which the first number of the match is one higher; ``form`` is filled with the groups."""
    return lambda match: form.format(int(match[1]) + 1, *match.groups()[1:])


_TRANSFORMERS_RESNET = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", count_from_one("layer{}.{}.")),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", count_from_one(".conv{}.")),
    (r"\.layer\.(\d)\.normalization\.", count_from_one(".bn{}.")),
)

# Query, key, value, gate and value of SwiGLU keep names of their own here; `assemble` joins them.
_TIMM = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 trains with its blocks in chunks
    (r"^(?:register_tokens|storage_tokens)$", "reg_token"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.attn\.([qkv])(?:_(?=bias)|_proj\.)", r".attn.\1."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.(?:w1|fc1_g)\.", ".mlp.gate."),
    (r"\.mlp\.(?:w2|fc1_x)\.", ".mlp.value."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_MMPRETRAIN = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"^ln1\.", "norm."),
    (r"^pre_norm\.", "norm_pre."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),  # mmseg's ViT
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.ffn\.(w12|w3)\.", r".mlp.\1."),
    (r"\.(?:attn|ffn)\.gamma([12])\.weight$", r".ls\1.gamma"),
    *_TIMM,
)
# Both the names in the files of the hub and those that models have in memory since transformers 5.
_TRANSFORMERS_LAYERS = r"^(?:encoder\.layer|model\.layer|layers|layer)\."
_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(?=cls_token$|mask_token$)", ""),
    (rf"{_TRANSFORMERS_LAYERS}(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    (r"\.mlp\.up_proj\.", ".mlp.value."),
    (r"\.(?:layer_scale([12])\.lambda1|lambda_([12]))$", r".ls\1\2.gamma"),
)

_RESNET_SIGN = r"layer1\.0\.conv1\.weight"
_RESNET_BLOCK = r"^layer1\.0\.conv2\.weight$"
_TIMM_SIGN = r"patch_embed\.proj\.weight"
_TIMM_BLOCK = r"^blocks\.0\.(?:0\.)?norm1\.weight$"
_MMPRETRAIN_SIGN = r"patch_embed\.projection\.weight"
_MMPRETRAIN_BLOCK = r"^layers\.0\.ln1\.weight$"
_TRANSFORMERS_SIGN = r"embeddings\.patch_embeddings\.projection\.weight"
_TRANSFORMERS_BLOCK = rf"{_TRANSFORMERS_LAYERS}0\.(?:norm1|layernorm_before)\.weight$"
_TRANSFORMERS_RESNET_MARKS = (
    r"^embedder\.embedder\.normalization\.weight$",
    r"^encoder\.stages\.0\.layers\.0\.layer\.1\.convolution\.weight$",
)
_DINOV3 = {"positions": "rope", "norm_eps": 1e-5}


def _resnet(name: str, *marks: str, **row) -> Layout:
    return Layout(name, "cnn", _RESNET_SIGN, (_RESNET_BLOCK, *marks), **row)


def _timm(name: str, *marks: str, **row) -> Layout:
    return Layout(name, "vit", _TIMM_SIGN, (_TIMM_BLOCK, *marks), renames=_TIMM, **row)


def _mmpretrain(name: str, *marks: str, **row) -> Layout:
    return Layout(name, "vit", _MMPRETRAIN_SIGN, (_MMPRETRAIN_BLOCK, *marks), renames=_MMPRETRAIN, **row)


def _transformers(name: str, *marks: str, sign: str = _TRANSFORMERS_SIGN, **row) -> Layout:
    return Layout(name, "vit", sign, (_TRANSFORMERS_BLOCK, *marks), renames=_TRANSFORMERS, **row)


LAYOUTS = (
    _resnet(
        "mmdet / mmseg ResNet with a deep stem",
        r"^stem\.7\.weight$",
        renames=((r"^stem\.7\.", "bn1."), (r"^stem\.(\d)\.", r"conv1.\1.")),
    ),
    _resnet("torchvision / timm / mmdet / mmpretrain ResNet or ResNeXt", r"^bn1\.weight$"),
    Layout(
        "transformers ResNet",
        "cnn",
        r"embedder\.embedder\.convolution\.weight",
        _TRANSFORMERS_RESNET_MARKS,
        renames=_TRANSFORMERS_RESNET,
    ),
    _timm("DINOv3", r"^(?:storage_tokens|rope_embed\.periods)$", options=_DINOV3),
    _timm("timm DINOv3", r"\.gamma_1$", r"^cls_token$", r"^reg_token$", absent=(r"^pos_embed$",), options=_DINOV3),
    _timm("BEiT", r"\.gamma_1$", r"relative_position_bias_table$"),
    _timm("BEiT without relative positions", r"\.gamma_1$", r"\.q_bias$", r"^pos_embed$"),
    _timm(
        "timm EVA-02 or ViT-RoPE",
        r"\.(?:gamma_1|q_bias|q_proj\.weight)$",
        refusal="its rotary positions pair channels in another way than DINOv3's, which are the ones built here",
    ),
    # Its patches have no bias, those of our own checkpoints have one.
    _timm("timm CLIP", r"^norm_pre\.weight$", absent=(r"^patch_embed\.proj\.bias$",), options={"norm_eps": 1e-5}),
    _timm("MAE", r"^decoder_embed\.weight$"),
    _timm("DINOv2", r"^mask_token$", r"\.ls1\.gamma$"),
    _timm("timm DINOv2 or DeiT III", r"\.ls1\.gamma$"),
    _timm("distilled DeiT", r"^dist_token$"),
    _timm("timm ViT (AugReg, DeiT, DINO, MAE's encoder)"),
    _mmpretrain("mmpretrain / mmseg BEiT", r"relative_position_bias_table$"),
    _mmpretrain("mmpretrain / mmseg ViT"),
    _transformers("transformers DINOv3", r"lambda1$", sign=r"embeddings\.patch_embeddings\.weight", options=_DINOV3),
    _transformers("transformers BEiT", r"\.lambda_1$", r"relative_position_bias_table$"),
    _transformers("transformers BEiT without relative positions", r"\.lambda_1$"),
    _transformers("transformers DINOv2", r"\.layer_scale1\.lambda1$"),
    _transformers("transformers DeiT", r"^embeddings\.distillation_token$"),
    _transformers("transformers ViT or ViTMAE"),
)


def unwrap(content: Mapping) -> dict[str, Tensor]:
    """The weights by name in what a file holds, whichever container they are in."""
    for _ in range(NESTING):  # bounded, since a file may hold a dict that contains itself
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def recognise(names: Iterable[str], family: str) -> tuple[Layout, str] | None:
    """The layout of a family that the names are of, and their prefix; None where no layout fits."""
    names = list(names)
    for layout in LAYOUTS:
        if layout.family != family:
            continue
        found = (re.fullmatch(rf"(.*\.)?{layout.sign}", name) for name in names)
        prefixes = {match[1] or "" for match in found if match}
        # Of several networks in one file the outermost, and rather a teacher than its student.
        for prefix in sorted(prefixes, key=lambda prefix: ("student" in prefix, len(prefix), prefix)):
            if layout.fits(name.removeprefix(prefix) for name in names if name.startswith(prefix)):
                return layout, prefix
    return None


def translate(weights: Mapping[str, Tensor], layout: Layout, prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the prefix by our names, and the names of the others."""
    ours = {layout.rename(name[len(prefix) :]): value for name, value in weights.items() if name.startswith(prefix)}
    return ours, [name for name in weights if not name.startswith(prefix)]
