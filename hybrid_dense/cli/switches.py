"""The switches of a command line, written into the config: precision, memory and speed.

The config that a run dumps then says all of it, and trains the same under the hosts' own tools.
"""

from __future__ import annotations

import argparse

import torch
from mmengine.config import Config

from hybrid_dense.cli import CommandError
from hybrid_dense.cli.options import parameters
from hybrid_dense.engine.equip import type_name
from hybrid_dense.engine.hooks.batch import describe_batch
from hybrid_dense.engine.precision import HALVES, PRECISIONS, computes

# Of the weights that EMA averages: at most the last 5000 steps, and never more than about the last tenth of the
# training so far, so that a short training is not averaged with the weights it began with.
EMA_MOMENTUM, EMA_GAMMA = 0.0002, 10


def set_precision(cfg: Config, word: str | None) -> None:
    """Compute in "bf16", "fp16" or "fp32"; None leaves it to the config.

    float16 gets its loss scaling either way. mmengine's AmpOptimWrapper, which puts the losses under autocast as well
    and refuses CPUs, becomes the hook that does neither.
    """
    dtype = _stated_dtype(cfg) if word is None else PRECISIONS[word]
    if dtype is None:
        return
    if dtype not in PRECISIONS.values():
        raise CommandError(f"the config computes in {dtype!r}; {', '.join(PRECISIONS.values())} are known")
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) != "AutocastHook"]
    cfg.custom_hooks = hooks + ([dict(type="AutocastHook", dtype=dtype)] if dtype in HALVES else [])
    wrapper = cfg.get("optim_wrapper")
    if not wrapper:
        return
    if type_name(wrapper) == "AmpOptimWrapper":
        wrapper.type = "OptimWrapper"
        wrapper.pop("use_fsdp", None)
    if dtype == "float16":
        wrapper.update(type="GuardedOptimWrapper", dtype=dtype)
    else:
        wrapper.pop("dtype", None)
        wrapper.pop("loss_scale", None)


def set_switches(cfg: Config, args: argparse.Namespace) -> None:
    """What `train` offers beside the precision: accumulation, checkpointing, EMA, TF32 and compilation."""
    if args.accumulate is not None:
        _accumulate(cfg, args.accumulate)
    if args.checkpointing is not None:
        _recompute(cfg, args.checkpointing)
    if args.ema is not None:
        _average(cfg, args.ema)
    if args.tf32 is not None:
        cfg.tf32 = args.tf32
    if args.compile is not None:
        hooks = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) != "CompileHook"]
        cfg.custom_hooks = hooks + ([dict(type="CompileHook")] if args.compile else [])


def describe_training(cfg: Config, processes: int) -> str:
    """One line on what a training uses: device, precision, batch, accumulation, compilation, checkpointing, EMA."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    machine = torch.cuda.get_device_name() if cuda else torch.cpu.get_capabilities().get("cpu_name", "").strip()
    hooks = {type_name(hook): hook for hook in cfg.get("custom_hooks") or []}
    precision = "float32"
    if "AutocastHook" in hooks:
        precision = hooks["AutocastHook"].get("dtype", "bfloat16")
        if not computes(device, HALVES[precision]):
            precision = f"float32 ({device.type} without native {precision})"
    elif cuda and cfg.get("tf32", True):
        precision = "float32 (TF32)"
    loader = cfg.get("train_dataloader")
    if loader is None:
        raise CommandError("the config has no train_dataloader; a training needs one")
    images = loader.batch_size if "batch_size" in loader else loader.batch_sampler.batch_size
    accumulated = (cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
    backbone = cfg.model.get("backbone") or {}
    states = {
        "compile": "CompileHook" in hooks,
        "checkpointing": bool(backbone.get("with_cp") or cfg.get("activation_checkpointing")),
        "EMA": "EMAHook" in hooks,
    }
    return (
        f"training on {device.type}{f' ({machine})' if machine else ''}: {precision}, "
        f"{describe_batch(processes, images, accumulated)}, "
        + ", ".join(f"{name} {'on' if on else 'off'}" for name, on in states.items())
    )


def _accumulate(cfg: Config, count: int) -> None:
    if count < 1:
        raise CommandError(f"--accumulate {count} is no number of batches; 1 is a step for each")
    wrapper = _optim_wrapper(cfg, "--accumulate")
    before = wrapper.get("accumulative_counts", 1)
    wrapper.accumulative_counts = count
    scaling = cfg.get("auto_scale_lr") or {}
    if "base_batch_size" in scaling:
        # mmengine divides images × processes by it; the real batch has the accumulated images in it as well.
        scaling.base_batch_size = scaling.base_batch_size * before / count


def _optim_wrapper(cfg: Config, switch: str) -> dict:
    if not cfg.get("optim_wrapper"):
        raise CommandError(f"{switch}: the config has no optim_wrapper; a training needs one")
    return cfg.optim_wrapper


def _recompute(cfg: Config, on: bool) -> None:
    backbone = cfg.model.get("backbone")
    if not isinstance(backbone, dict) or "with_cp" not in parameters(backbone, ["model", "backbone"]):
        what = f"model.backbone {backbone['type']}" if isinstance(backbone, dict) else "a model without a backbone"
        raise CommandError(f"--checkpointing: {what} has no option with_cp; leave the switch out")
    backbone.with_cp = on


def _average(cfg: Config, momentum: float | bool) -> None:
    """EMA at the config's or the default momentum (True), or at this one."""
    if momentum is not True and not 0 < momentum < 1:
        raise CommandError(f"--ema {momentum} is no momentum; it lies between 0 and 1, such as {EMA_MOMENTUM}")
    found = next((hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) == "EMAHook"), None)
    if found is None:
        count = _optim_wrapper(cfg, "--ema").get("accumulative_counts", 1)
        found = dict(
            type="EMAHook",
            ema_type="MomentumAnnealingEMA",
            momentum=EMA_MOMENTUM,
            gamma=EMA_GAMMA * count,
            interval=count,  # between two steps of the optimizer there is nothing new to average
            update_buffers=True,
        )
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), found]
        found = cfg.custom_hooks[-1]
    if momentum is not True:
        found["momentum"] = momentum


def _stated_dtype(cfg: Config) -> str | None:
    """What the config computes in, where it says more than that bfloat16 is fine: float16, or AmpOptimWrapper's."""
    hook = next((hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) == "AutocastHook"), None)
    if hook is not None:
        return hook.get("dtype", "bfloat16")
    wrapper = cfg.get("optim_wrapper") or {}
    if type_name(wrapper) == "AmpOptimWrapper":
        return str(wrapper.get("dtype") or "float16").removeprefix("torch.")
    return None
