"""From a state dict in any known layout to the weights of one trunk, by its names and in its shapes. Nothing is changed
on the way but by resizing, and by folding layer scale into a trunk that has none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid_dense.archs import CNN_ARCHS, NUM_STAGES, VIT_ARCHS, CNNArch
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights.assemble import assemble
from hybrid_dense.weights.layouts import LAYOUTS, Layout, recognise, translate, unwrap
from hybrid_dense.weights.report import TrunkCoverage
from hybrid_dense.weights.resize import resize

FAMILIES: dict[type[nn.Module], str] = {ResNeXt: "cnn", ViT: "vit"}
KINDS = {"cnn": "CNN", "vit": "ViT"}
# What no file of others has, so that its absence is no gap.
OURS_ALONE = "residuals."
COUNTERS = "num_batches_tracked"
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
            variant that fits. How much was found is for the caller to judge.
    """
    family = next((family for kind, family in FAMILIES.items() if isinstance(trunk, kind)), None)
    if family is None:
        raise ValueError(f"a {type(trunk).__name__} is no trunk to fill; give a ResNeXt or a ViT")
    content = unwrap(content)
    layout, prefix = find_layout(content, family, source)
    weights, outside = translate(content, layout, prefix)
    own = trunk.state_dict()
    notes: dict[str, str] = {}
    if family == "vit":
        weights = assemble(weights)
        check_vit(weights, own, source)
        options = vit_options(weights, layout)
        built = vit_options(own, layout) | {"positions": trunk.positions, "norm_eps": trunk.norm.eps}
        if options["positions"] == "none" and trunk.positions in ("sine", "rope"):
            options["positions"] = trunk.positions  # these leave no trace in a file
        if not built["layer_scale"]:
            weights = fold_layer_scale(weights, notes)
    else:
        check_cnn(weights, own, source)
        options, built = cnn_options(weights), cnn_options(own)
    fitted, resized, mismatched = fit(weights, own, notes)
    missing = [name for name in own if name not in weights and not name.endswith(COUNTERS)]
    unexpected = [*(name for name in weights if name not in own), *outside]
    filled, total = count(trunk, fitted)
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
        parameters=total,
    )
    return Conversion(fitted, coverage)


def find_layout(weights: Mapping[str, Tensor], family: str, source: str) -> tuple[Layout, str]:
    found = recognise(weights, family)
    if found is None:
        other = next((row for kind in KINDS if kind != family and (row := recognise(weights, kind))), None)
        what = f"{other[0].name} weights" if other else f"names like {', '.join(list(weights)[:3]) or 'none at all'}"
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


def fold_layer_scale(weights: Mapping[str, Tensor], notes: dict[str, str]) -> dict[str, Tensor]:
    """γ · (W·x + b) is (γ·W)·x + γ·b: the same function without a layer scale."""
    weights = dict(weights)
    for name in list(weights):
        match = re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name)
        layer = match and match[1] + {"1": "attn.proj", "2": "mlp.fc2"}[match[2]]
        if not match or f"{layer}.weight" not in weights:
            continue
        gamma = weights.pop(name).float()
        for kind in ("weight", "bias"):
            value = weights[f"{layer}.{kind}"].float()
            weights[f"{layer}.{kind}"] = gamma.unsqueeze(1) * value if kind == "weight" else gamma * value
            notes[f"{layer}.{kind}"] = "layer scale folded in"
    return weights


def count(trunk: nn.Module, fitted: Mapping[str, Tensor]) -> tuple[int, int]:
    """Elements of the trunk's parameters: those that ``fitted`` fills, and those that a file could fill."""
    sizes = {name: parameter.numel() for name, parameter in trunk.named_parameters()}
    counted = {name: size for name, size in sizes.items() if name in fitted or not name.startswith(OURS_ALONE)}
    return sum(size for name, size in counted.items() if name in fitted), sum(counted.values())


def vit_options(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, object]:
    """The options of ``ViT`` that the names and shapes tell of."""
    scaled, fc1, fc2 = (f"blocks.0.{name}" for name in ("ls1.gamma", "mlp.fc1.bias", "mlp.fc2.weight"))
    gated = fc1 in weights and fc2 in weights and weights[fc1].shape[0] == 2 * weights[fc2].shape[1]
    return {
        "class_token": "cls_token" in weights,
        "registers": weights["reg_token"].shape[1] if "reg_token" in weights else 0,
        "layer_scale": 1e-5 if scaled in weights else None,
        "mlp": "swiglu" if gated else "gelu",
        "norm_pre": "norm_pre.weight" in weights,
        "positions": "learned" if "pos_embed" in weights else "none",
        **layout.options,
    }


def cnn_options(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """The options of ``ResNeXt`` that the names tell of."""
    return {"deep_stem": "conv1.0.weight" in weights}


def write_hint(layout: Layout, unexpected: list[str], options: dict, built: dict) -> str:
    """One line on how to build a trunk that computes what the file's network does; "" if this one does."""
    different = [f"{name}={value!r}" for name, value in options.items() if built.get(name) != value]
    parts = [f"build the backbone with {', '.join(different)}"] if different else []
    alien = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in unexpected if INSIDE_BLOCKS.search(name)))
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
    return weights["blocks.0.norm1.weight"].shape[0], max(indices) + 1


def check_cnn(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    if "layer1.0.conv3.weight" not in weights:
        raise ValueError(f"{source} is a ResNet of two-layer blocks, like ResNet-34; use ResNet-50 or a larger one")
    file, trunk = cnn_sizes(weights), cnn_sizes(own)
    if file != trunk:
        row = next((name for name, arch in CNN_ARCHS.items() if arch == file), None)
        raise misfit(source, f"a CNN of {describe(file)}", describe(trunk), row, f"{row}_vit_…")


def cnn_sizes(weights: Mapping[str, Tensor]) -> CNNArch:
    """The row that the shapes tell of."""
    stages = range(1, NUM_STAGES + 1)
    blocks = tuple(1 + max(block_index(name, stage) for name in weights) for stage in stages)
    width, (inner, per_group) = weights["bn1.weight"].shape[0], weights["layer1.0.conv2.weight"].shape[:2]
    groups = inner // per_group
    return CNNArch(blocks, width, groups, inner * 64 // (width * groups))


def block_index(name: str, stage: int) -> int:
    match = re.match(rf"layer{stage}\.(\d+)\.", name)
    return int(match[1]) if match else -1


def describe(arch: CNNArch) -> str:
    return f"blocks {arch.blocks}, width {arch.width}, {arch.groups}×{arch.group_width}d groups"


def misfit(source: str, file: str, trunk: str, row: str | None, variant: str) -> ValueError:
    mend = f"use variant {variant}" if row else "no variant has these sizes"
    return ValueError(f"{source} is {file} (row {row}), the trunk has {trunk}: {mend}")


def shape(tensor: Tensor | torch.Size) -> str:
    return "×".join(str(side) for side in tensor.shape) or "scalar"
