"""`train --strategy`: DDP, FSDP and DeepSpeed through mmengine's FlexibleRunner and its strategies."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner

from hybrid_dense.engine.checkpoint import is_trusted
from hybrid_dense.engine.equip import type_name

STRATEGIES = ("ddp", "fsdp", "deepspeed")
# The one that was seen to work; 0.19.8 lacks what mmengine imports.
DEEPSPEED = "deepspeed==0.16.9"


@RUNNERS.register_module()
class StrategyRunner(FlexibleRunner):
    """mmengine's FlexibleRunner with the course of its Runner: hooks prepare themselves before a checkpoint is loaded.

    FlexibleRunner loads first, so that what a hook builds in ``before_run`` (the averaged weights of EMAHook) is not
    there when ``after_load_checkpoint`` is to fill it.
    """

    _has_begun = False

    def load_or_resume(self) -> None:
        self.call_hook("before_run")
        self._has_begun = True
        super().load_or_resume()

    def call_hook(self, fn_name: str, **kwargs) -> None:
        if fn_name == "before_run" and self._has_begun:
            self._has_begun = False
            return
        super().call_hook(fn_name, **kwargs)


def set_strategy(cfg: Config, name: str, on_gpu: bool) -> None:
    """Let a config train under ``ddp``, ``fsdp`` or ``deepspeed``, in place.

    Args:
        cfg: the config; a ``strategy`` in it that is of the same type keeps its arguments.
        name: one of ``STRATEGIES``.
        on_gpu: whether there is a GPU for each process.

    Raises:
        ValueError: the package is missing, or a hook of the config does not work with it; one line with the mend.
    """
    if name != "ddp" and any(type_name(hook) == "EMAHook" for hook in cfg.get("custom_hooks") or []):
        raise ValueError(
            f"--strategy {name} does not go with EMAHook, which averages a copy of the whole model, of which a process "
            f"has a share; use --strategy ddp"
        )
    strategy = _DESCRIBED[name](cfg, on_gpu)
    given = cfg.get("strategy") or {}
    cfg.strategy = {**strategy, **given} if given.get("type", strategy["type"]) == strategy["type"] else strategy
    # Runner takes None for the default, FlexibleRunner does not.
    cfg.env_cfg = cfg.get("env_cfg") or dict(dist_cfg=dict(backend="nccl"))


def _ddp(cfg: Config, on_gpu: bool) -> dict:
    # The config's own wrapper, else mmengine's; its default asks for a GPU, and its strategies do not read the key.
    default = dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    wrapper = {**default, **(cfg.get("model_wrapper_cfg") or {})}
    return dict(type="ReplicateStrategy", sync_bn=cfg.get("sync_bn"), model_wrapper=wrapper)


def _fsdp(cfg: Config, on_gpu: bool) -> dict:
    return dict(type="FullyShardStrategy", sync_bn=cfg.get("sync_bn"))


def _deepspeed(cfg: Config, on_gpu: bool) -> dict:
    """ZeRO stage 2: optimizer state and gradients are shared out; with the config's clipping and accumulation."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"--strategy deepspeed needs a package that is not here: pip install {DEEPSPEED}")
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it is read when the package is imported
    if importlib.util.find_spec("deepspeed.runtime.fp16.onebit") is None:
        raise ValueError(f"this deepspeed lacks optimizers that mmengine imports: pip install {DEEPSPEED}")
    source = cfg.resume if isinstance(cfg.get("resume"), str) else cfg.get("load_from")
    if source and Path(source).is_dir() and not is_trusted(source):
        raise ValueError(
            f"DeepSpeed reads {source} through pickle, which runs what code is in it; if it is your own: "
            f"--trust-checkpoint"
        )
    wrapper = cfg.optim_wrapper
    clip, accumulated = (wrapper.get("clip_grad") or {}).get("max_norm"), wrapper.get("accumulative_counts", 1)
    kept = {key: wrapper[key] for key in ("optimizer", "constructor", "paramwise_cfg") if key in wrapper}
    cfg.optim_wrapper = dict(type="DeepSpeedOptimWrapper", **kept)
    strategy = dict(
        type="DeepSpeedStrategy",
        # Weights stay in float32, and AutocastHook says what is computed in bfloat16: RoIs and boxes are not.
        zero_optimization=dict(stage=2, overlap_comm=True, contiguous_gradients=True),
        gradient_accumulation_steps=accumulated,
    )
    return strategy if clip is None else dict(strategy, gradient_clipping=clip)


_DESCRIBED = dict(ddp=_ddp, fsdp=_fsdp, deepspeed=_deepspeed)
