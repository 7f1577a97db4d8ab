"""Parts that libraries keep apart and our ViT keeps together: query, key and value, SwiGLU, tokens and positions."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor


def assemble(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViT's weights by our names, joined to our parameters; a new dict, exactly the same function."""
    weights = dict(weights)
    blocks = dict.fromkeys(match[0] for name in weights if (match := re.match(r"blocks\.\d+\.", name)))
    for block in blocks:
        join(weights, f"{block}attn.qkv", [f"{block}attn.{part}" for part in "qkv"])
        # DINOv3 calls the first layer of a plain MLP by the name of SwiGLU's value: it is what is left without a gate.
        gates = [f"{block}mlp.{part}" for part in ("gate", "value") if f"{block}mlp.{part}.weight" in weights]
        join(weights, f"{block}mlp.fc1", gates)
        mask_key_bias(weights, f"{block}attn.qkv")
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            fill_bias(weights, block + layer)
    fill_bias(weights, "patch_embed.proj")
    place_tokens(weights)
    return weights


def join(weights: dict[str, Tensor], target: str, parts: list[str]) -> None:
    """Stack linear layers of the same input into ``target``; a part without a bias gets one of zero."""
    for kind in ("weight", "bias"):
        names = [f"{part}.{kind}" for part in parts]
        present = [name for name in names if name in weights]
        if present and (kind == "bias" or present == names):
            zero = torch.zeros_like(weights[present[0]])
            weights[f"{target}.{kind}"] = torch.cat([weights.pop(name, zero) for name in names])


def mask_key_bias(weights: dict[str, Tensor], layer: str) -> None:
    """DINOv3 stores a key bias beside a mask that removes it."""
    if weights.pop(f"{layer}.bias_mask", None) is not None and f"{layer}.bias" in weights:
        bias = weights[f"{layer}.bias"].clone()
        bias[len(bias) // 3 : 2 * len(bias) // 3] = 0
        weights[f"{layer}.bias"] = bias


def fill_bias(weights: dict[str, Tensor], layer: str) -> None:
    """A layer that was built without a bias computes what one with a bias of zero does."""
    if f"{layer}.weight" in weights and f"{layer}.bias" not in weights:
        weights[f"{layer}.bias"] = weights[f"{layer}.weight"].new_zeros(weights[f"{layer}.weight"].shape[0])


def place_tokens(weights: dict[str, Tensor]) -> None:
    """Fold the positions of class, distillation and register tokens into these; a distillation token is a register."""
    tokens = [name for name in ("cls_token", "dist_token", "reg_token") if name in weights]
    counts = [weights[name].shape[1] for name in tokens]
    table = weights.get("pos_embed")
    if tokens and table is not None and table.dim() == 3 and table.shape[2] == weights[tokens[0]].shape[2]:
        # What is left of the table beside the square of patches; most libraries give registers no positions.
        extra = table.shape[1] - math.isqrt(table.shape[1]) ** 2
        positioned = next((n for n in range(1, len(tokens) + 1) if sum(counts[:n]) == extra), 0)
        if positioned:
            weights["pos_embed"] = table[:, extra:]
            parts = table[:, :extra].float().split(counts[:positioned], dim=1)
            for name, positions in zip(tokens, parts, strict=False):
                weights[name] = weights[name].float() + positions
    registers = [weights.pop(name) for name in ("dist_token", "reg_token") if name in weights]
    if registers and sum(part.shape[1] for part in registers):
        weights["reg_token"] = torch.cat(registers, dim=1)
