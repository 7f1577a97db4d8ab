"""What train, test, demo and describe share: read a config, know its host, stand under a launcher, build a runner."""

from __future__ import annotations

import argparse
import importlib
import os
from difflib import get_close_matches
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import hybrid_dense
from hybrid_dense import config_file
from hybrid_dense.channels import fill_channels
from hybrid_dense.cli import CommandError
from hybrid_dense.cli.options import merge_options, redirect_data_root
from hybrid_dense.cli.switches import set_precision
from hybrid_dense.cli.values import check_values
from hybrid_dense.data.check import check_data
from hybrid_dense.data.scenes import scenes_root
from hybrid_dense.data.tolerant import tolerate_broken_images
from hybrid_dense.engine.allocator import keep_freed_memory
from hybrid_dense.engine.checkpoint import SUFFIXES, read_checkpoint, trust
from hybrid_dense.engine.distributed import join_group
from hybrid_dense.engine.equip import type_name
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.precision import use_tf32
from hybrid_dense.engine.strategies import StrategyRunner
from hybrid_dense.evaluation import register_host_metrics
from hybrid_dense.evaluation.overlap import overlap_evaluation
from hybrid_dense.schedules import stretch_epoch, stretch_scheduler

HOSTS = ("mmdet", "mmseg")
NO_HOST = "mmengine"
"""The scope of a model that needs neither, such as an ImageClassifier."""


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's changes, its host registered, its data checked and its work folder set."""
    hybrid_dense.register_all_modules()
    cfg = read_config(args.config)
    register_host(cfg)
    overlap_evaluation(cfg)
    merge_options(cfg, parse_options(args.cfg_options))
    check_values(cfg)
    batch_windows(cfg)
    fill_channels(cfg)
    if "scenes" in cfg:
        redirect_data_root(cfg, f"{scenes_root(**cfg.scenes)}/")
    if args.work_dir is not None:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / args.config.stem)
    if not any(type_name(hook) == "MetricsReportHook" for hook in cfg.get("custom_hooks") or []):
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="MetricsReportHook")]
    set_precision(cfg, args.amp)
    return cfg


def batch_windows(cfg: Config) -> None:
    """Let mmseg's plain segmentor send its sliding windows through the network several at a time, in place."""
    model = cfg.get("model") or {}
    if type_name(model) == "EncoderDecoder" and (model.get("test_cfg") or {}).get("mode") == "slide":
        model["type"] = "SlidingEncoderDecoder"


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
        suffixes = (config_file.PYTHON, *config_file.DATA)
        known = [str(file) for file in sorted(path.parent.glob("*")) if file.suffix in suffixes]
        near = get_close_matches(str(path), known, n=3, cutoff=0.4)
        raise CommandError(f"no config file {path}" + (f"; near it: {', '.join(near)}" if near else ""))
    try:
        return config_file.read_config(path)
    except SyntaxError as error:
        raise CommandError(f"{path}, or a base of it, has an error of syntax: {error}") from error
    except TypeError as error:  # mmengine's on a part that is a dict here and none in the base
        raise CommandError(f"{path}: {error}") from error


def stretch_schedule(cfg: Config, epochs: int) -> None:
    """Train for this many epochs, with what happens at an epoch in the same proportions: rate, pipeline, validations.

    Warm-ups that count steps stay. Validations come no farther apart than the config has them.
    """
    if "max_epochs" not in (cfg.get("train_cfg") or {}):
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
        if type_name(hook) == "StagedTrainingHook":
            for stage in hook.stages:
                if stage.get("until_epoch"):
                    stage.until_epoch = stretch_epoch(stage.until_epoch, ratio)
    for scheduler in cfg.get("param_scheduler") or []:
        stretch_scheduler(scheduler, ratio)


def register_host(cfg: Config) -> None:
    """Register the modules of the host that the config is written for, mmdet or mmseg; "mmengine" has none."""
    scope = cfg.get("default_scope")
    if scope == NO_HOST:
        init_default_scope(NO_HOST)
        return
    if scope not in HOSTS:
        raise CommandError(
            f"default_scope is {scope!r} in {cfg.filename}; set it to 'mmdet' or 'mmseg', "
            f"or to {NO_HOST!r} for a model of neither"
        )
    try:
        host = importlib.import_module(f"{scope}.utils")
    except ImportError as error:
        raise CommandError(f"{scope} cannot be imported ({error}); `hybrid-dense doctor` names the mend") from error
    host.register_all_modules(init_default_scope=True)
    register_host_metrics(scope)


def join_processes(cfg: Config, launcher: str) -> bool:
    """Stand under the launcher; returns whether it has started this training before, and so has to go on with it.

    Without a GPU the processes talk over gloo. ``env_cfg.dist_cfg.timeout`` says how many seconds to wait for others.
    """
    if launcher == "slurm":
        read_slurm_environment()
    cfg.launcher = "none" if launcher == "none" else "pytorch"
    if launcher == "none":
        return False
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise CommandError(f"--launcher {launcher} needs {', '.join(missing)}; start it through tools/dist_train.sh")
    options = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return join_group(options.get("backend", "nccl"), options.get("timeout"))
    restarted = join_group("gloo", options.get("timeout"))
    idle = cfg.get("find_unused_parameters", False)  # which mmengine leaves aside where there is a wrapper
    # As mmengine's own wrapping on GPUs.
    wrapping = dict(type="MMDistributedDataParallel", find_unused_parameters=idle, broadcast_buffers=False)
    cfg.setdefault("model_wrapper_cfg", wrapping)
    cfg.model_wrapper_cfg.device_ids = None
    cfg.sync_bn = None  # torch's takes CUDA tensors only
    return restarted


def read_slurm_environment() -> None:
    """Tell torch what Slurm knows; MASTER_ADDR and MASTER_PORT are exported by tools/slurm_*.sh."""
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    missing = [name for name in (*names.values(), "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise CommandError(f"--launcher slurm needs {', '.join(missing)}; start it through tools/slurm_train.sh")
    os.environ.update({name: os.environ[source] for name, source in names.items()})
    if torch.cuda.device_count() == 1:
        os.environ["LOCAL_RANK"] = "0"  # Slurm shows each of a machine's tasks its own GPU only


def trust_checkpoints(cfg: Config, resume: str | None) -> None:
    """Open without restriction the checkpoints that a training names: the one to go on from, those of its config."""
    if resume is not None:
        trust(cfg.work_dir if resume == "auto" else resume)
    if cfg.get("load_from"):
        trust(cfg.load_from)

    def visit(node):
        if isinstance(node, (dict, list, tuple)):
            for value in node.values() if isinstance(node, dict) else node:
                visit(value)
        elif isinstance(node, str) and node.endswith(SUFFIXES):
            trust(node)

    visit(cfg._cfg_dict)


def resume_from(cfg: Config, checkpoint: str) -> None:
    """Let a training go on from a checkpoint or, for "auto", from the latest good one of its work folder.

    ``cfg.resume`` is then its path; `create_runner` understands that.
    """
    if checkpoint != "auto":
        # Missing, broken or unsafe files end here, before mmengine opens them.
        damage = find_damage(Path(checkpoint)) if Path(checkpoint).exists() else None
        if damage:
            raise CommandError(f"{damage}; leave out the path, and the newest good checkpoint is taken")
        if not Path(checkpoint).is_dir():  # DeepSpeed's
            read_checkpoint(checkpoint)
    elif (checkpoint := find_latest(cfg.work_dir)) is None:
        if os.environ.get("RANK", "0") == "0":
            print(f"nothing to resume in {cfg.work_dir}, starting from the beginning", flush=True)
        cfg.resume = False
        return
    cfg.resume = str(checkpoint)


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Check the data of these splits, join the other processes and build mmengine's runner."""
    # One process looks for all of them; where it finds a reason to stop, its launcher stops the others.
    # A data set of our own, which no host reads, checks itself.
    if os.environ.get("RANK", "0") == "0" and cfg.default_scope in HOSTS:
        check_data(cfg, splits)
    set_up_device(cfg)
    return create_runner(cfg)


def create_runner(cfg: Config) -> Runner:
    """mmengine's runner of a config; broken images are tolerated.

    What it goes on from is a matter of this start: the config that it dumps begins where the original does.
    """
    checkpoint = cfg.get("resume")
    if isinstance(checkpoint, str):
        cfg.resume = False
    kind = StrategyRunner if cfg.get("strategy") else Runner
    runner = tolerate_broken_images(kind.from_cfg(cfg))
    if isinstance(checkpoint, str):
        runner._resume, runner._load_from = True, checkpoint
    return runner


def set_up_device(cfg: Config) -> None:
    """What holds for the whole process: TF32 and pinned memory for GPUs, memory that is kept on a CPU."""
    if torch.cuda.is_available():
        use_tf32(cfg.get("tf32", True))
        for split in ("train", "val", "test"):
            if loader := cfg.get(f"{split}_dataloader"):
                loader.setdefault("pin_memory", True)
    else:
        keep_freed_memory()
