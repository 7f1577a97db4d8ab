"""The first iterations of a training and the first batches of its validation, timed; nothing of them is kept."""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from hybrid_dense.engine.equip import ADDED, type_name
from hybrid_dense.engine.memory import peak_memory

ITERATIONS, BATCHES = 20, 10
"""Iterations of training and batches of validation that are taken, where there are so many."""
# Of them, the first that are not counted: memory is taken, workers start, convolutions are chosen.
_ITERATIONS_TO_SETTLE, _BATCHES_TO_SETTLE = 5, 2
# What saves, logs or waits for trouble. Everything else of a config may change what an iteration costs.
_LEFT_OUT = (
    *ADDED,
    *("MetricsReportHook", "CheckpointHook", "LoggerHook"),  # the last two beside the default ones
)


@dataclass(frozen=True)
class DryRun:
    """What one process has seen; times in seconds, in the order in which they were taken.

    Args:
        steps: of each iteration, from the batch being there to the step being taken.
        waits: before each iteration, for its batch.
        validated: of each batch of validation, with loading it and its part of the metric; () without a validation.
        peak: the most bytes held: by the GPU's allocator, else resident in this process, data workers not counted.
        iterations, validations: what the schedule has, or has left where it goes on from a checkpoint.
        validation_batches: batches of one validation.
    """

    steps: tuple[float, ...]
    waits: tuple[float, ...]
    validated: tuple[float, ...]
    peak: int
    iterations: int
    validations: int
    validation_batches: int

    @property
    def counted(self) -> int:
        """How many iterations tell something: those behind the first five, at least the last."""
        return max(len(self.steps) - _ITERATIONS_TO_SETTLE, 1)

    @property
    def wait(self) -> float:
        """For data, an iteration. The mean, because workers that are too slow hand over several batches at once."""
        return statistics.mean(self.waits[-self.counted :])

    @property
    def iteration(self) -> float:
        """An iteration: the median step and the mean wait."""
        return statistics.median(self.steps[-self.counted :]) + self.wait

    @property
    def batches_counted(self) -> tuple[float, ...]:
        """Of the batches of validation those behind the first two, at least the last."""
        return self.validated[_BATCHES_TO_SETTLE:] or self.validated[-1:]

    @property
    def validation(self) -> float:
        """A whole validation but the metric's own sum at its end, estimated from the batches that count."""
        return statistics.mean(self.batches_counted) * self.validation_batches if self.validated else 0.0


def dry_run_config(cfg: Config, work_dir: Path) -> Config:
    """A copy of a training's config that saves no checkpoint, reports to no server (Weights & Biases) and writes to
    ``work_dir``, a folder that is thrown away afterwards."""
    cfg = deepcopy(cfg)
    cfg.work_dir, cfg.log_level = str(work_dir), "WARNING"
    if cfg.get("visualizer"):
        cfg.visualizer.vis_backends = []
    cfg.default_hooks.update(checkpoint=None, logger=None)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if type_name(hook) not in _LEFT_OUT]
    return cfg


def take_first_iterations(runner: Runner) -> DryRun:
    """Train ``ITERATIONS`` iterations with a runner of `dry_run_config`, then validate ``BATCHES`` batches.

    Epochs that are over begin anew, as in the training; a schedule that is shorter is run to its end.

    Raises:
        ValueError: the checkpoint that it goes on from has nothing left to train.
    """
    watch = _FirstIterations()
    runner.register_hook(watch)
    with suppress(_EnoughSeen):
        runner.train()
    if not watch.steps:
        raise ValueError(f"nothing is left to train after iteration {runner.iter}; leave --resume out")
    validated = time_validation(runner) if watch.validations else ()
    return DryRun(
        steps=tuple(watch.steps),
        waits=tuple(watch.waits),
        validated=validated,
        peak=torch.cuda.max_memory_reserved() if torch.cuda.is_available() else peak_memory(),
        iterations=watch.iterations,
        validations=watch.validations,
        validation_batches=len(runner.val_dataloader) if validated else 0,
    )


def time_validation(runner: Runner) -> tuple[float, ...]:
    """Seconds of each of the first ``BATCHES`` batches of the runner's validation."""
    loop, seconds = runner.val_loop, []
    runner.call_hook("before_val")
    runner.call_hook("before_val_epoch")
    runner.model.eval()
    begun = _now()
    for index, batch in zip(range(BATCHES), loop.dataloader, strict=False):
        loop.run_iter(index, batch)
        seconds.append(_now() - begun)
        begun = _now()
    return tuple(seconds)


def count_validations(
    length: int, begin: int, milestones: Sequence[int], intervals: Sequence[int], done: int = 0
) -> int:
    """How often mmengine's loops validate on the way to ``length`` epochs or iterations, the last one included.

    Args:
        begin: the epoch or iteration before which they never do.
        milestones, intervals: from each milestone on, its interval; the loops' ``dynamic_…``.
        done: epochs or iterations that are over already.
    """
    return sum(
        now >= begin and (now % intervals[bisect(milestones, now + 1) - 1] == 0 or now == length)
        for now in range(done + 1, length + 1)
    )


class _EnoughSeen(Exception):
    """Leaves the training loop, which has no end within an epoch."""


class _FirstIterations(Hook):
    """Times iterations, keeps the loop from validating and leaves it after ``ITERATIONS``."""

    priority = "LOWEST"

    def __init__(self):
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.iterations = self.validations = 0

    def before_train(self, runner) -> None:
        loop = runner.train_loop
        self.iterations = runner.max_iters - runner.iter
        if runner.val_loop is not None:
            by_epoch = isinstance(loop, EpochBasedTrainLoop)
            done, length = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
            plan = loop.val_begin, loop.dynamic_milestones, loop.dynamic_intervals
            self.validations = count_validations(length, *plan, done)
        loop.val_begin = math.inf
        self.ended = _now()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.begun = _now()
        self.waits.append(self.begun - self.ended)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.ended = _now()
        self.steps.append(self.ended - self.begun)
        if len(self.steps) == ITERATIONS:
            raise _EnoughSeen


def _now() -> float:
    """Seconds on a clock, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
