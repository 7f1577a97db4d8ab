"""A training's steps without the training: nothing is validated, logged, scheduled or saved."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from hybrid_dense.engine.equip import type_name

# Hooks that change what a step computes or holds in memory.
_KEPT_HOOKS = ("AutocastHook", "EMAHook")
_NO_HOOKS = dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"))


def rehearsal_config(cfg: Config, work_dir: Path) -> Config:
    """A copy of a training's config that has its model, data, optimizer and precision, and nothing else.

    Args:
        work_dir: where mmengine writes its logs; a folder that is thrown away afterwards.
    """
    if cfg.get("strategy"):
        raise ValueError(f"strategy {cfg.strategy['type']}: a single process cannot rehearse it; leave --strategy out")
    cfg = deepcopy(cfg)
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) in _KEPT_HOOKS]
    for hook in hooks:
        hook.pop("begin_epoch", None)
        hook.pop("begin_iter", None)
    bare = dict(
        work_dir=str(work_dir),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
        default_hooks=_NO_HOOKS,
        custom_hooks=hooks,
        param_scheduler=None,
        auto_scale_lr=None,
        visualizer=None,
        resume=False,
        load_from=cfg.resume if isinstance(cfg.get("resume"), str) else cfg.get("load_from"),  # `train --resume`
        log_level="WARNING",
        **{f"{split}_{part}": None for split in ("val", "test") for part in ("cfg", "dataloader", "evaluator")},
    )
    for name, value in bare.items():  # one by one: Config.update would merge what is there
        cfg[name] = value
    return cfg


def begin(runner: Runner) -> None:
    """Build what `Runner.train` builds before its first step, but neither initialise nor load weights."""
    _ = runner.train_loop
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if not hasattr(runner.optim_wrapper, "optimizer"):
        raise ValueError("the config has several optimizers; --find-lr and --auto-batch know trainings with one")
    runner.call_hook("before_run")
    runner.call_hook("before_train_epoch")
    runner.model.train()
