"""From a state dict in any known layout to the weights of one trunk, by its names and in its shapes. Nothing is changed
on the way but by resizing, and by bringing layer scale to where the trunk has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_dense.archs import CNN_ARCHS, NUM_STAGES, VIT_ARCHS, CNNArch
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.trunks.vit import PostNormBlock
from hybrid_dense.weights.assemble import assemble
from hybrid_dense.weights.layouts import LAYOUTS, Layout, recognise, translate, unwrap
from hybrid_dense.weights.report import OURS_ALONE, TrunkCoverage, without_numbers
from hybrid_dense.weights.resize import resize
from hybrid_dense.weights.values import COUNTERS, WIDTH, check_values, shape

FAMILIES: dict[type[nn.Module], str] = {ResNeXt: "cnn", ViT: "vit"}
KINDS = {"cnn": "CNN", "vit": "ViT"}
LAYER_SCALE = re.compile(r"(blocks\.\d+\.)ls([12])\.gamma")
BRANCH_ENDS = {"1": "attn.proj", "2": "mlp.fc2"}
INSIDE_BLOCKS = re.compile(r"^(?:blocks|layer\d)\.|rel(?:ative)?_pos")


@dataclass(frozen=True)
class Conversion:
    """``weights`` by the trunk's names and in its shapes, for ``load_state_dict(…, strict=False)``, and the account."""

    weights: dict[str, Tensor]
    coverage: TrunkCoverage


def convert(content: Mapping, trunk: nn.Module, source: str = "state dict") -> Conversion:
    """Bring the weights in ``content`` to ``trunk``, which is read and not changed.

    Args:
        content: a state dict in one of ``layouts.LAYOUTS``, or what a checkpoint file holds around one.
        trunk: a ``ResNeXt`` or a ``ViT``.
        source: what messages call it.

    Raises:
        ValueError: a layout that is not known or refused; a network of another size, where the message names the
            variant that fits; a weight that is damaged, not finite or no real number; a trunk on the meta device. How
            much was found is for the caller to judge.
    """
    family = next((family for kind, family in FAMILIES.items() if isinstance(trunk, kind)), None)
    if family is None:
        raise ValueError(f"a {type(trunk).__name__} is no trunk to fill; give a ResNeXt or a ViT")
    content = unwrap(content)
    layout, prefix = find_layout(content, family, source)
    weights, outside = translate(content, layout, prefix)
    own = trunk.state_dict()
    if any(value.is_meta for value in own.values()):
        raise ValueError(f"the {KINDS[family]} trunk is on the meta device, which holds no values; build it on another")
    check_values(weights, own, family, source)
    notes: dict[str, str] = {}
    if family == "vit":
        check_vit(weights, own, source)
        weights = assemble(weights)
        options = vit_options(weights, layout)
        built = vit_options(own, layout) | {"positions": trunk.positions, "norm_eps": trunk.norm.eps}
        weights = bring_layer_scale(weights, trunk, notes)
    else:
        check_cnn(weights, own, source)
        options, built = cnn_options(weights), cnn_options(own)
    fitted, resized, mismatched = fit(weights, own, notes)
    missing = [name for name in own if name not in weights and not name.endswith(COUNTERS)]
    unexpected = [*(name for name in weights if name not in own), *outside]
    filled, total = count(own, fitted)
    coverage = TrunkCoverage(
        trunk=family,
        source=source,
        layout=layout.name,
        matched=tuple(name for name in fitted if name not in resized),
        resized=tuple(resized),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
        unexpected=tuple(unexpected),
        notes=notes,
        hint=write_hint(layout, unexpected, options, built),
        coverage=filled / total,
        values=total,
    )
    return Conversion(fitted, coverage)


def find_layout(weights: Mapping[str, Tensor], family: str, source: str) -> tuple[Layout, str]:
    if not weights:
        raise ValueError(f"{source} holds no weights; give a state dict, {{name: tensor, …}}, or a checkpoint with one")
    found = recognise(weights, family)
    if found is None:
        other = next((row for kind in KINDS if kind != family and (row := recognise(weights, kind))), None)
        what = f"{other[0].name} weights" if other else f"names like {', '.join(list(weights)[:3])}"
        known = "; ".join(layout.name for layout in LAYOUTS if layout.family == family and not layout.refusal)
        raise ValueError(f"{source} holds {what}, which are none of a known {KINDS[family]}: {known}")
    if found[0].refusal:
        raise ValueError(f"{source} holds {found[0].name} weights, which cannot be used: {found[0].refusal}")
    return found


def fit(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], notes: dict[str, str]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights that go into ``own``, and which of these were resized, and the names whose shapes do not fit."""
    fitted, resized, mismatched = {}, [], []
    for name in own:
        value = weights.get(name)
        if value is None:
            continue
        if value.shape == own[name].shape:
            fitted[name] = value
            continue
        changed = resize(name, value, own[name].shape)
        if changed is None:
            mismatched.append(name)
            notes[name] = f"{shape(value)} in the file, {shape(own[name])} in the trunk"
        else:
            fitted[name] = changed
            resized.append(name)
            notes[name] = f"{shape(value)} to {shape(changed)}"
    return fitted, resized, mismatched


def bring_layer_scale(weights: Mapping[str, Tensor], trunk: ViT, notes: dict[str, str]) -> dict[str, Tensor]:
    """The same function with the layer scale of ``trunk``: one that the file lacks is 1, and where the trunk has none,
    the file's is folded into the last layer of the branch, since γ · (W·x + b) is (γ·W)·x + γ·b."""
    weights, own = dict(weights), trunk.state_dict()
    wanted = [name for name in own if LAYER_SCALE.fullmatch(name)]
    if wanted and not any(map(LAYER_SCALE.fullmatch, weights)):
        notes.update(dict.fromkeys(wanted, "no layer scale in the file: 1"))
        return weights | {name: torch.ones_like(own[name]) for name in wanted}
    last = {"1": "norm1", "2": "norm2"} if isinstance(trunk.blocks[0], PostNormBlock) else BRANCH_ENDS
    for name in list(weights) if not wanted else ():
        match = LAYER_SCALE.fullmatch(name)
        layer = match and match[1] + last[match[2]]
        if not match or f"{layer}.weight" not in weights:
            continue
        gamma = weights.pop(name).float()
        for part in (f"{layer}.weight", f"{layer}.bias"):
            if part in weights:
                value = weights[part].float()
                weights[part] = gamma.unsqueeze(1) * value if value.dim() == 2 else gamma * value
                notes[part] = "layer scale folded in"
    return weights


def count(own: Mapping[str, Tensor], fitted: Mapping[str, Tensor]) -> tuple[int, int]:
    """Values of the trunk's parameters and statistics: those that ``fitted`` fills, and those that a file could."""
    sizes = {name: value.numel() for name, value in own.items() if not name.endswith(COUNTERS)}
    counted = {name: size for name, size in sizes.items() if name in fitted or not OURS_ALONE.match(name)}
    return sum(size for name, size in counted.items() if name in fitted), sum(counted.values())


def vit_options(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, object]:
    """The options of ``ViT`` that the names and shapes tell of and that its function depends on."""
    fc1, fc2 = "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight"
    gated = fc1 in weights and fc2 in weights and weights[fc1].shape[0] == 2 * weights[fc2].shape[1]
    positions = {}  # a file without any table does not tell: the network may have had sine positions
    if "pos_embed" in weights:
        positions["positions"] = "learned"
    elif any("relative_pos" in name for name in weights):
        positions["positions"] = "none"
    return {
        "class_token": "cls_token" in weights,
        "registers": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "mlp": "swiglu" if gated else "gelu",
        "norm_pre": "norm_pre.weight" in weights,
        **positions,
        **layout.options,
    }


def cnn_options(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """The options of ``ResNeXt`` that the names tell of."""
    return {"deep_stem": "conv1.0.weight" in weights}


def write_hint(layout: Layout, unexpected: list[str], options: dict, built: dict) -> str:
    """One line on how to build a trunk that computes what the file's network does; "" if this one does."""
    different = {name: value for name, value in options.items() if built.get(name) != value}
    given = [f"{name}={value!r}" for name, value in different.items() if value]
    absent = [name for name, value in different.items() if not value]
    parts = [f"build the backbone with {', '.join(given)}"] if given else []
    parts += [f"the file has no {name.replace('_', ' ')}: build without {name}" for name in absent]
    if built.get("positions") == "learned" and "positions" not in options:
        parts.append("the file has no position table: build with positions='sine', 'rope' or 'none' as its network was")
    alien = list(dict.fromkeys(without_numbers(name) for name in unexpected if INSIDE_BLOCKS.search(name)))
    if alien:
        parts.append(f"parts that our blocks lack change the features until trained ({', '.join(alien[:2])})")
    return f"these are {layout.name} weights: {'; '.join(parts)}" if parts else ""


def check_vit(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    file, trunk = vit_sizes(weights), vit_sizes(own)
    if file != trunk:
        row = next((name for name, arch in VIT_ARCHS.items() if (arch.dim, arch.depth) == file), None)
        sizes = f"a ViT of dim {file[0]}, depth {file[1]}", f"dim {trunk[0]}, depth {trunk[1]}"
        raise misfit(source, *sizes, row, f"…_vit_{row}")


def vit_sizes(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels and blocks."""
    indices = [int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))]
    return weights[WIDTH].shape[0], max(indices) + 1


def check_cnn(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    file, trunk = cnn_sizes(weights), cnn_sizes(own)
    if file != trunk:
        row = next((name for name, arch in CNN_ARCHS.items() if arch == file), None)
        raise misfit(source, f"a CNN of {describe(file)}", describe(trunk), row, f"{row}_vit_…")


def cnn_sizes(weights: Mapping[str, Tensor]) -> CNNArch:
    """The row that the shapes tell of."""
    stages = range(1, NUM_STAGES + 1)
    blocks = tuple(1 + max(block_index(name, stage) for name in weights) for stage in stages)
    width, (inner, per_group) = weights["bn1.weight"].shape[0], weights["layer1.0.conv2.weight"].shape[:2]
    groups = max(inner // per_group, 1)  # 0 in a damaged file
    if "layer1.0.conv3.weight" not in weights:
        return CNNArch(blocks, width, expansion=1)
    return CNNArch(blocks, width, groups, inner * 64 // (width * groups))


def block_index(name: str, stage: int) -> int:
    match = re.match(rf"layer{stage}\.(\d+)\.", name)
    return int(match[1]) if match else -1


def describe(arch: CNNArch) -> str:
    inside = f"{arch.groups}×{arch.group_width}d groups" if arch.expansion > 1 else "two 3×3 convolutions each"
    return f"blocks {arch.blocks}, width {arch.width}, {inside}"


def misfit(source: str, file: str, trunk: str, row: str | None, variant: str) -> ValueError:
    known, mend = (f" (row {row})", f"use variant {variant}") if row else ("", "no variant has these sizes")
    return ValueError(f"{source} is {file}{known}, the trunk has {trunk}: {mend}")
