"""What `train` finds out before it trains: the largest batch that fits, and a learning rate."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from rich.console import Console
from rich.table import Table

import hybrid_dense
from hybrid_dense.cli import CommandError
from hybrid_dense.cli.session import register_host, set_up_device
from hybrid_dense.data.check import check_data
from hybrid_dense.data.tolerant import tolerate_broken_images
from hybrid_dense.engine.auto_batch import HEAD_ROOM, BatchSearch, find_batch
from hybrid_dense.engine.find_lr import Sweep, find_lr
from hybrid_dense.engine.rehearsal import rehearsal_config
from hybrid_dense.report.lr_sweep import save_lr_sweep

BATCH_FILE = "auto_batch.json"
SEARCH_LIMIT = timedelta(hours=1)


def build_rehearsal(cfg: Config) -> Runner:
    """A runner for steps that are no training; a process that has nothing registered yet can call it."""
    hybrid_dense.register_all_modules()
    register_host(cfg)
    import_modules_from_strings(**(cfg.get("custom_imports") or dict(imports=[])))
    set_up_device(cfg)
    return tolerate_broken_images(Runner.from_cfg(cfg))


def choose_batch(cfg: Config, keep: bool = True) -> None:
    """Give the config the largest batch that fits, the same in all processes, and say how it was found.

    A training that goes on keeps the batch it began with, which is written down in its work folder.

    Args:
        keep: whether to write the batch down; not where nothing is trained.
    """
    file = Path(cfg.work_dir) / BATCH_FILE
    batch = [None]
    # The search may take longer than nccl waits.
    patient = dist.new_group(backend="gloo", timeout=SEARCH_LIMIT) if get_world_size() > 1 else None
    if get_rank() == 0:
        batch = [_read_batch(cfg, file) if cfg.get("resume") else _search_batch(cfg, file if keep else None)]
    broadcast_object_list(batch, group=patient)
    cfg.train_dataloader.batch_size = batch[0]
    _say(describe_rate(cfg))


def _read_batch(cfg: Config, file: Path) -> int:
    if not file.is_file():
        raise CommandError(f"--auto-batch did not choose the batch of {cfg.work_dir}; to go on, leave it out")
    batch = json.loads(file.read_text())["batch"]
    print(f"batch {batch}, as --auto-batch chose when this training began ({file})", flush=True)
    return batch


def _search_batch(cfg: Config, file: Path | None) -> int:
    check_data(cfg, ("train",))
    local, device = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    search = find_batch(cfg, build_rehearsal, device, get_world_size(), local)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(batch=search.batch, budget=search.budget)))
    print_search(search)
    return search.batch


def print_search(search: BatchSearch) -> None:
    height, width = search.sizes
    console = Console()
    console.print(f"training steps with images of up to {height}×{width}:")
    table = Table()
    table.add_column("batch", justify="right")
    table.add_column("memory, GiB", justify="right")
    table.add_column("fits")
    for trial in search.trials:
        fits = trial.peak is not None and trial.peak <= search.budget
        peak = "–" if trial.peak is None else f"{trial.peak / 2**30:.2f}"
        table.add_row(str(trial.batch), peak, "yes" if fits else "no")
    console.print(table)
    reason = "all images there are, and they fit" if search.batch == search.data else "the most that fits"
    how = ", extrapolated" if search.extrapolated and search.batch > search.trials[-1].batch else ""
    limit = f"{search.budget / 2**30:.2f} GiB, with {HEAD_ROOM:.0%} of the memory kept free"
    console.print(f"batch {search.batch} a process: {reason} into {limit}{how}", soft_wrap=True)


def describe_rate(cfg: Config) -> str:
    """What becomes of the config's learning rate with its batch."""
    rate, images = cfg.optim_wrapper.optimizer.lr, cfg.train_dataloader.batch_size * get_world_size()
    if not is_scaled(cfg):
        return f"learning rate {rate:.3g}, whatever the batch is: --auto-scale-lr or --find-lr would fit it"
    base = cfg.auto_scale_lr.base_batch_size
    return f"learning rate {rate * images / base:.3g}: {rate:.3g} × {images} / {base:g} images a step (auto_scale_lr)"


def is_scaled(cfg: Config) -> bool:
    return bool((cfg.get("auto_scale_lr") or {}).get("enable"))


def sweep_rates(cfg: Config) -> None:
    """Sweep the learning rate, write `lr_sweep.png` and `lr_sweep.json` into the work folder and suggest one."""
    if get_rank() == 0:
        check_data(cfg, ("train",))
    _say("sweeping the learning rate; nothing is trained or saved")
    with tempfile.TemporaryDirectory() as folder:
        sweep = find_lr(build_rehearsal(rehearsal_config(cfg, Path(folder))))
    if get_rank() == 0:
        print(report_sweep(cfg, sweep), flush=True)


def report_sweep(cfg: Config, sweep: Sweep) -> str:
    """Write the files; returns what to tell the user."""
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / "lr_sweep.json").write_text(json.dumps(sweep.to_dict(), indent=1))
    marks = {"steepest descent": sweep.steepest, "a tenth of the minimum": sweep.tenth}
    marks = {name: rate for name, rate in marks.items() if rate is not None}
    picture = save_lr_sweep(sweep.rates, sweep.losses, sweep.smoothed, marks, work_dir / "lr_sweep.png")
    lines = [f"{picture} and lr_sweep.json: {len(sweep.rates)} steps, {sweep.rates[0]:.1e} to {sweep.rates[-1]:.1e}"]
    if sweep.tenth is None:
        return "\n".join([*lines, "the loss never falls: look at the data, or try another batch"])
    lines += [f"  {name}: {rate:.2g}" for name, rate in marks.items()]
    images = cfg.train_dataloader.batch_size * get_world_size()
    ratio = images / cfg.auto_scale_lr.base_batch_size if is_scaled(cfg) else 1
    scaled = f" ({sweep.tenth:.2g} after auto_scale_lr's factor of {ratio:g})" if ratio != 1 else ""
    option = f"--cfg-options optim_wrapper.optimizer.lr={sweep.tenth / ratio:.2g}"
    return "\n".join([*lines, f"try a rate between them, the upper first: {option}{scaled}"])


def _say(text: str) -> None:
    if get_rank() == 0:
        print(text, flush=True)
