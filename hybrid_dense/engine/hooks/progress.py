"""A live progress bar for training and evaluation: epoch, loss, images/s, memory, time left."""

from __future__ import annotations

import functools
import logging
import resource
import sys
import time

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@HOOKS.register_module()
class RichProgressHook(Hook):
    """Draw a live bar on standard error; where that is no terminal, print a plain line every ``line_seconds`` instead.

    While it runs, the logger's console output is held to warnings (the log file keeps everything).

    Args:
        line_seconds: seconds between two plain lines where there is no terminal.
    """

    priority = "LOW"

    def __init__(self, line_seconds: float = 30.0):
        self.line_seconds = line_seconds
        self.progress: Progress | None = None

    def before_run(self, runner) -> None:
        # mmengine calls no hook when an exception ends a run, and a live bar must not outlive it.
        for name in ("_train_loop", "_test_loop"):
            loop = getattr(runner, name)
            if isinstance(loop, BaseLoop):
                loop.run = self._ending(type(loop).run.__get__(loop))

    def _ending(self, run):
        @functools.wraps(run)
        def run_and_stop():
            try:
                return run()
            finally:
                self._stop()

        return run_and_stop

    def before_train(self, runner) -> None:
        self._start(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = runner.message_hub.log_scalars
        loss = f"loss {losses['train/loss'].current():.3f}" if "train/loss" in losses else ""
        self._advance(runner, f"epoch {runner.epoch + 1}/{runner.max_epochs}  {loss}")

    def before_test(self, runner) -> None:
        self._start(runner, "test", len(runner.test_dataloader), 0)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._advance(runner, "")

    def before_val(self, runner) -> None:
        if self.progress is not None:
            self.progress.update(self.task, details="evaluating")

    def _start(self, runner, stage: str, total: int, done: int) -> None:
        if runner.rank != 0:
            return
        loader = runner.train_dataloader if stage == "train" else runner.test_dataloader
        # With a batch sampler the loader has no batch size of its own; one of several data sets has one for each.
        size = getattr(loader.batch_sampler or loader, "batch_size", None) or 0
        self.images_per_step = (sum(size) if isinstance(size, (list, tuple)) else size) * runner.world_size
        self.stage, self.last_time, self.last_line, self.rate = stage, time.perf_counter(), time.perf_counter(), None
        self.quieted = [
            (handler, handler.level)
            for handler in runner.logger.handlers
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        ]
        for handler, _ in self.quieted:
            handler.setLevel(logging.WARNING)
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(stage, total=total, completed=done, details="starting")
        self.progress.start()

    def _advance(self, runner, details: str) -> None:
        if self.progress is None:
            return
        now = time.perf_counter()
        seconds, self.last_time = now - self.last_time, now
        # A validation between two steps is not the speed of a step: the average forgets it slowly on purpose.
        self.rate = seconds if self.rate is None else 0.95 * self.rate + 0.05 * min(seconds, 5 * self.rate)
        speed = f"{self.images_per_step / self.rate:.1f} images/s  " if self.images_per_step else ""
        details = f"{details}  {speed}{_peak_memory()}"
        self.progress.update(self.task, advance=1, details=details)
        if self.progress.disable and now - self.last_line > self.line_seconds:
            self.last_line = now
            task = self.progress.tasks[0]
            left = (task.total - task.completed) * self.rate
            print(f"{self.stage} {task.completed:.0f}/{task.total}  {details}  {left:.0f} s left", file=sys.stderr)

    def _stop(self) -> None:
        if self.progress is None:
            return
        self.progress.stop()
        self.progress = None
        for handler, level in self.quieted:
            handler.setLevel(level)


def _peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
