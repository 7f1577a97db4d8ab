"""Trainings that end in the same weights, bit for bit, and the sum that shows it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
from mmengine.config import Config
from torch import Tensor


def make_deterministic(cfg: Config) -> None:
    """Let a config train with a fixed seed (its own, else 0) and with deterministic algorithms only.

    Call it before CUDA starts. An operator of torch that has no deterministic form raises and names itself.
    """
    # cuBLAS asks for workspaces of a fixed size; it reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    randomness = dict(cfg.get("randomness") or {})
    seed = randomness.get("seed")
    cfg.randomness = dict(randomness, seed=0 if seed is None else seed, deterministic=True)
    cfg.env_cfg = dict(cfg.get("env_cfg") or {}, cudnn_benchmark=False)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, whatever its order and device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        if not isinstance(value, Tensor):  # the extra state that some modules keep
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
