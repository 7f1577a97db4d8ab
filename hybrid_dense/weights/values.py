"""What cannot be a trunk's weight, by its kind, its shape or its values, is refused before anything is done with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTERS = "num_batches_tracked"
COUNTS = (torch.int32, torch.int64)

WIDTH = "blocks.0.norm1.weight"
ANY, CHANNELS = "any", "channels"
_INTO = r"blocks\.\d+\.(?:attn\.(?:qkv|[qkv])|mlp\.(?:fc1|gate|value))"
_OUT_OF = r"blocks\.\d+\.(?:attn\.proj|mlp\.fc2)"
# What a network's size is told by, and what is joined, added or multiplied on the way to a trunk, whether or not this
# has it under that name. Anything else may have another shape; it is then mismatched.
CNN_SHAPES = ((r"bn1\.weight", (ANY,)), (r"layer1\.0\.conv2\.weight", (ANY, ANY, ANY, ANY)))
VIT_SHAPES = (
    (re.escape(WIDTH), (ANY,)),
    (r"(?:cls|dist|reg)_token", (1, ANY, CHANNELS)),
    (rf"{_INTO}\.weight", (ANY, CHANNELS)),
    (rf"{_INTO}\.bias", (ANY,)),
    (rf"{_OUT_OF}\.weight", (CHANNELS, ANY)),
    (rf"{_OUT_OF}\.bias|blocks\.\d+\.(?:ls[12]\.gamma|norm[12]\.\w+)", (CHANNELS,)),
)
SHAPES = {"cnn": CNN_SHAPES, "vit": VIT_SHAPES}


def check_values(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], family: str, source: str) -> None:
    """Refuse weights, by our names, that a trunk of ``own`` would take and cannot; what it has no place for may be
    anything.

    Raises:
        ValueError: one line that names the weight.
    """
    # First the one that tells the channels by which the others are judged.
    for name in sorted(weights, key=lambda name: name != WIDTH):
        expected = expected_shape(name, weights, own, family)
        fault = expected is not None and find_fault(name, weights[name], expected)
        if fault:
            raise ValueError(f"{source}: {name} {fault}")


def expected_shape(
    name: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], family: str
) -> tuple[int | str, ...] | None:
    """Sides that are known and those that may be any; None for what is not used."""
    sides = next((sides for pattern, sides in SHAPES[family] if re.fullmatch(pattern, name)), None)
    if sides:
        return tuple(weights[WIDTH].numel() if side == CHANNELS else side for side in sides)
    if name in own or name == "pos_embed":
        is_scalar = name in own and own[name].dim() == 0
        return (ANY,) * max(weights[name].dim(), 0 if is_scalar else 1)
    return None


def find_fault(name: str, value: Tensor, expected: tuple[int | str, ...]) -> str:
    """What is wrong and how to mend it; "" if nothing is."""
    if value.is_meta:
        return "is on the meta device and holds nothing; load the file onto the CPU"
    if value.is_nested or value.layout != torch.strided:
        return "is no dense tensor; store it as one"
    if value.dtype not in FLOATS and not (name.endswith(COUNTERS) and value.dtype in COUNTS):
        return f"is of {value.dtype}, no real floating point type; convert the file to float32"
    # A network without registers may store an empty table of them.
    is_empty = value.numel() == 0 and name != "reg_token"
    fits = len(expected) == value.dim() and all(e in (ANY, s) for e, s in zip(expected, value.shape, strict=True))
    if is_empty or not fits:
        return f"has shape {shape(value)}, not {'×'.join(map(str, expected)) or 'scalar'}; the file is damaged"
    if not value.float().isfinite().all():
        return "holds NaN or infinite values; the file is of a run that diverged, or damaged"
    return ""


def shape(tensor: Tensor) -> str:
    return "×".join(str(side) for side in tensor.shape) or "scalar"
