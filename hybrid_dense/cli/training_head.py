"""What a training is about, in a few lines before its first step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from hybrid_dense.engine.equip import type_name


class TrainingHead(Hook):
    """Print what a training is about once all of it is built. It belongs to the terminal of this one run, so no config
    names it.

    Args:
        lines: the first word of each line, and what says the rest of it.
    """

    # Before the hooks that log something when a training begins.
    priority = "VERY_HIGH"

    def __init__(self, lines: Mapping[str, Callable]):
        self.lines = lines

    def before_train(self, runner) -> None:
        if runner.rank == 0:
            print("\n".join(f"  {name:8} {describe(runner)}" for name, describe in self.lines.items()), flush=True)


def describe_model(runner) -> str:
    """``MaskRCNN on ParallelResNeXtViT rxnano_vit_pico, 1.3 M parameters, 1.2 M of them trained``."""
    model = runner.cfg.model
    backbone = model.get("backbone") or {}
    parts = [str(type_name(model))]
    if type_name(backbone):
        parts.append(f"on {' '.join(str(part) for part in (type_name(backbone), backbone.get('variant')) if part)}")
    if runner.cfg.get("strategy"):  # a process may hold a share of the parameters
        return " ".join(parts)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in runner.model.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, learns in counts if learns)
    some = "" if trained == total else f", {trained / 1e6:.1f} M of them trained"
    return f"{' '.join(parts)}, {total / 1e6:.1f} M parameters{some}"


def describe_data(runner) -> str:
    """``480 images to train on (CocoDataset), 96 to validate on``."""
    data = runner.train_dataloader.dataset
    text = f"{len(data)} images to train on ({type(data).__name__})"
    return text + (f", {len(runner.val_dataloader.dataset)} to validate on" if runner.val_loop is not None else "")


def describe_course(runner) -> str:
    """``8 epochs of 30 steps, AdamW``; a training that goes on says from where."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    course = f"{runner.max_iters} steps"
    if by_epoch:
        epochs = runner.max_epochs
        course = f"{epochs} epoch{'' if epochs == 1 else 's'} of {len(runner.train_dataloader)} steps"
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # of several, none
    name = f", {type(optimizer).__name__}" if optimizer is not None else ""
    return course + name + (f"; going on after step {runner.iter}" if runner.iter else "")


def describe_results(runner) -> str:
    """The work folder, and the log that holds what the terminal does not show."""
    log = Path(runner.log_dir, f"{runner.timestamp}.log")
    return f"{os.path.relpath(runner.work_dir)}; config, environment and all that is logged: {os.path.relpath(log)}"


COURSE = dict(model=describe_model, data=describe_data, course=describe_course)
"""The lines on a training that leaves nothing."""
RESULTS = dict(COURSE, results=describe_results)
"""Those, and where a training leaves its results."""
