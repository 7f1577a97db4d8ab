"""What train, test, demo and describe share: read a config, know its host, stand under a launcher, build a runner."""

from __future__ import annotations

import argparse
import importlib
import os
from difflib import get_close_matches
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

import hybrid_dense
from hybrid_dense.channels import fill_channels
from hybrid_dense.cli import CommandError
from hybrid_dense.cli.options import merge_options, redirect_data_root
from hybrid_dense.data.check import check_data
from hybrid_dense.data.scenes import scenes_root
from hybrid_dense.data.tolerant import tolerate_broken_images
from hybrid_dense.engine.allocator import keep_freed_memory
from hybrid_dense.evaluation import register_host_metrics
from hybrid_dense.schedules import stretch_epoch, stretch_scheduler


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes, its host registered, its data checked and its work folder set."""
    hybrid_dense.register_all_modules()
    cfg = read_config(args.config)
    register_host(cfg)
    merge_options(cfg, parse_options(args.cfg_options))
    fill_channels(cfg)
    if "scenes" in cfg:
        redirect_data_root(cfg, f"{scenes_root(**cfg.scenes)}/")
    if args.work_dir is not None:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / args.config.stem)
    if not any(hook["type"] == "MetricsReportHook" for hook in cfg.get("custom_hooks") or []):
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="MetricsReportHook")]
    if args.amp is not None:
        hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook["type"] != "AutocastHook"]
        cfg.custom_hooks = hooks + ([dict(type="AutocastHook")] if args.amp else [])
    return cfg


def parse_options(pairs: list[str]) -> dict:
    """``["a.b=1", "c=[x,y]"]`` to ``{"a.b": 1, "c": ["x", "y"]}``, the way mmengine's tools read them."""
    for pair in pairs:
        if "=" not in pair:
            raise CommandError(f"--cfg-options {pair}: expected KEY=VALUE")
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="*", action=DictAction)
    return parser.parse_args(["--options", *pairs]).options


def read_config(path: Path) -> Config:
    """Read a config file; a wrong path names the nearest files there are."""
    if not path.is_file():
        known = [str(file) for file in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        near = get_close_matches(str(path), known, n=3, cutoff=0.4)
        raise CommandError(f"no config file {path}" + (f"; near it: {', '.join(near)}" if near else ""))
    return Config.fromfile(path)


def stretch_schedule(cfg: Config, epochs: int) -> None:
    """Train for this many epochs, with what happens at an epoch in the same proportions: rate, pipeline, validations.

    Warm-ups that count steps stay. Validations come no farther apart than the config has them.
    """
    if "max_epochs" not in cfg.get("train_cfg", {}):
        raise CommandError(f"--epochs needs train_cfg.max_epochs in {cfg.filename}; this config trains by iterations")
    loop = cfg.train_cfg
    ratio = epochs / loop.max_epochs

    loop.max_epochs = epochs
    if "val_interval" in loop:
        loop.val_interval = min(loop.val_interval, stretch_epoch(loop.val_interval, ratio))
    if loop.get("dynamic_intervals"):
        loop.dynamic_intervals = [
            (stretch_epoch(epoch, ratio), min(gap, stretch_epoch(gap, ratio))) for epoch, gap in loop.dynamic_intervals
        ]
    for hook in cfg.get("custom_hooks") or []:
        if "switch_epoch" in hook:
            hook.switch_epoch = stretch_epoch(hook.switch_epoch, ratio)
    for scheduler in cfg.get("param_scheduler") or []:
        stretch_scheduler(scheduler, ratio)


def register_host(cfg: Config) -> None:
    """Register the modules of the host that the config is written for: mmdet or mmseg."""
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise CommandError(f"default_scope is {scope!r} in {cfg.filename}; set it to 'mmdet' or 'mmseg'")
    try:
        host = importlib.import_module(f"{scope}.utils")
    except ImportError as error:
        raise CommandError(f"{scope} cannot be imported ({error}); `hybrid-dense doctor` names the mend") from error
    host.register_all_modules(init_default_scope=True)
    register_host_metrics(scope)


def join_processes(cfg: Config, launcher: str) -> None:
    """Stand under the launcher. Without a GPU the processes talk over gloo, which mmengine does not set up itself."""
    if launcher == "slurm":
        read_slurm_environment()
    cfg.launcher = "none" if launcher == "none" else "pytorch"
    if launcher != "none" and not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo")
        cfg.setdefault("model_wrapper_cfg", dict(type="MMDistributedDataParallel"))
        cfg.model_wrapper_cfg.device_ids = None
        cfg.sync_bn = None  # torch's takes CUDA tensors only


def read_slurm_environment() -> None:
    """Tell torch what Slurm knows; MASTER_ADDR and MASTER_PORT are exported by tools/slurm_*.sh."""
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    missing = [name for name in (*names.values(), "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise CommandError(f"--launcher slurm needs {', '.join(missing)}; start it through tools/slurm_train.sh")
    os.environ.update({name: os.environ[source] for name, source in names.items()})


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Check the data of these splits, join the other processes and build mmengine's runner."""
    # One process looks for all of them; where it finds a reason to stop, its launcher stops the others.
    if os.environ.get("RANK", "0") == "0":
        check_data(cfg, splits)
    if not torch.cuda.is_available():
        keep_freed_memory()
    return tolerate_broken_images(Runner.from_cfg(cfg))
