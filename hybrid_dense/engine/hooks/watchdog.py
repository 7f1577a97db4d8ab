"""Say where a training is stuck: in its data, in its computation, or waiting for a process that has fallen behind."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
import weakref

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from hybrid_dense.engine import heartbeat
from hybrid_dense.engine.data_workers import describe_data_workers
from hybrid_dense.engine.heartbeat import WAITING_FOR_RANKS, Heartbeats
from hybrid_dense.engine.rank_log import log_from_any_rank

WAITING_FOR_DATA, COMPUTING, EVALUATING = "waiting for data", "computing", "evaluating"
# After a step, outside the data loader: in the hooks that log and save, say.
BETWEEN_STEPS = "between two steps"
# Where a step stands that waits for collectives or for the device: the innermost Python file is one of these.
_WAITING_FILES = (
    "torch/distributed/",
    "torch/nn/parallel/",
    "torch/autograd/graph.py",
    "mmengine/dist/",
    "mmengine/logging/message_hub.py",
    "hybrid_dense/engine/agreement.py",
    "hybrid_dense/engine/optim_wrapper.py",
)

# Who waits for data stands somewhere in these, with data workers or without.
_LOADING_FILES = "torch/utils/data/"

# Of the training that runs in this process, for `name_missing_ranks`.
_heartbeats: Heartbeats | None = None


@HOOKS.register_module()
class WatchdogHook(Hook):
    """Report once where this process is stuck, when no iteration of training, validation or test has ended for a while.

    The report is a warning in the log: what it waits for, with the data workers' states or the ranks that are behind,
    and where in the program the main thread stands. It ends nothing. Computing the figures after the last batch of a
    validation or test may take as long as it takes; a first iteration, which compiles and tunes, may not.

    Each process tells its place to the others every few seconds through the process group's store, from a thread of its
    own, so that a rank that waits in a collective can name the rank that it waits for.

    Args:
        seconds: how long nothing may end.
    """

    # After all other hooks: what they do belongs to the iteration.
    priority = "LOWEST"

    def __init__(self, seconds: float = 300.0):
        if seconds <= 0:
            raise ValueError(f"seconds={seconds} would report every iteration; leave the hook out instead")
        self.seconds = seconds
        self.thread: threading.Thread | None = None

    def before_train(self, runner) -> None:
        self._start(runner)

    def before_val(self, runner) -> None:
        self._start(runner)

    def before_test(self, runner) -> None:
        self._start(runner)

    def after_val(self, runner) -> None:
        self._beat(runner, WAITING_FOR_DATA)

    def after_run(self, runner) -> None:
        self._end()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.doing = COMPUTING

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.doing = COMPUTING

    def before_test_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.doing = COMPUTING

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # The loop counts the iteration after its hooks.
        self._beat(runner, WAITING_FOR_DATA, iteration=runner.iter + 1)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._after_evaluated(runner, batch_idx, runner.val_dataloader)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._after_evaluated(runner, batch_idx, runner.test_dataloader)

    def _after_evaluated(self, runner, batch_idx: int, loader) -> None:
        is_last = batch_idx + 1 >= len(loader)
        self._beat(runner, EVALUATING if is_last else WAITING_FOR_DATA, batches=batch_idx + 1)

    def _beat(self, runner, doing: str, iteration: int | None = None, batches: int = 0) -> None:
        self.doing, self.since = doing, time.monotonic()
        self.place = (runner.iter if iteration is None else iteration), batches

    def _start(self, runner) -> None:
        global _heartbeats
        self._beat(runner, WAITING_FOR_DATA)
        if self.thread is not None:
            return
        if get_world_size() > 1:
            _heartbeats = Heartbeats()
        self.ended = threading.Event()
        self.thread = threading.Thread(
            target=_watch,
            args=(weakref.ref(self), self.ended, threading.get_ident(), runner.logger),
            name="watchdog",
            daemon=True,
        )
        self.thread.start()

    def _end(self) -> None:
        global _heartbeats
        if self.thread is not None:
            self.ended.set()
            self.thread.join(2 * heartbeat.INTERVAL)
            self.thread = _heartbeats = None


def _watch(reference, ended: threading.Event, main_thread: int, logger: logging.Logger) -> None:
    """The thread: beat, and look at the clock; it ends with the hook."""
    reported = None  # the moment since which the reported hang lasts
    while not ended.wait(heartbeat.INTERVAL):
        hook = reference()
        if hook is None:
            return
        doing, since, place = hook.doing, hook.since, hook.place
        seconds = time.monotonic() - since
        if _heartbeats is not None:
            # If the process that keeps the store has gone, the collectives will say so.
            with contextlib.suppress(Exception):
                _heartbeats.send(*place, *_stand(doing, sys._current_frames().get(main_thread)), seconds)
        if reported is not None and since != reported:
            log_from_any_rank(logger, f"going on after {since - reported:.0f} s", logging.INFO)
            reported = None
        if seconds > hook.seconds and doing != EVALUATING and reported is None:
            reported = since
            # Looking at the other ranks takes a while, and this thread must go on beating.
            arguments = (reference, logger, main_thread, doing, since, place)
            threading.Thread(target=_report, args=arguments, daemon=True).start()
        del hook


def _report(reference, logger: logging.Logger, main_thread: int, doing: str, since: float, place: tuple) -> None:
    frame = sys._current_frames().get(main_thread)
    text = describe_stuck(_stand(doing, frame)[0], *place, time.monotonic() - since)
    stack = "".join(traceback.format_stack(frame))
    hook = reference()
    if hook is not None and hook.since == since:
        log_from_any_rank(logger, f"{text}\nThe main thread stands at (innermost call last):\n{stack}")


def _stand(doing: str, frame) -> tuple[str, str]:
    """What the main thread does, and the line it stands at."""
    if frame is None:
        return doing, "ended"
    file = frame.f_code.co_filename
    callers = (at.f_code.co_filename for at, _ in traceback.walk_stack(frame))
    if doing == WAITING_FOR_DATA and not any(_LOADING_FILES in caller for caller in callers):
        doing = BETWEEN_STEPS
    if doing in (COMPUTING, BETWEEN_STEPS) and any(part in file for part in _WAITING_FILES):
        doing = WAITING_FOR_RANKS
    return doing, f"{file.rpartition('/')[2]}:{frame.f_lineno} in {frame.f_code.co_name}"


def describe_stuck(doing: str, iteration: int, batches: int, seconds: float) -> str:
    """One line: since when nothing has moved, and what this process is waiting for."""
    place = f"batch {batches} of an evaluation" if batches else f"iteration {iteration}"
    text = f"no progress for {seconds:.0f} s after {place}: "
    if doing == WAITING_FOR_DATA:
        workers = describe_data_workers()
        return text + "waiting for data; " + ("data workers: " + "; ".join(workers) if workers else "no data workers")
    missing = name_missing_ranks()
    own = f"rank {get_rank()} "
    if missing and not missing.startswith(own):
        return f"{text}waiting for other ranks: {missing}"
    return text + (doing if doing == BETWEEN_STEPS else COMPUTING)


def name_missing_ranks() -> str:
    """The ranks that this process waits for, or that its last collective failed for, such as "rank 3 on host b has been
    at iteration 811 for 312 s, waiting for data"; "" where nothing is known.

    Takes some seconds, to see which processes are alive.
    """
    if _heartbeats is None or not dist.is_initialized():
        return ""
    try:
        return "; ".join(_heartbeats.behind())
    except Exception:
        # Under torchrun its agent keeps the store, else rank 0 does.
        return "the process that keeps the group's store (rank 0's machine) has gone"
