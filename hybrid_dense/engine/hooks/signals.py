"""End a training on SIGTERM, SIGUSR1 or Ctrl-C with a checkpoint from which it goes on."""

from __future__ import annotations

import atexit
import functools
import mmap
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from hybrid_dense.engine.agreement import Agreement
from hybrid_dense.engine.optim_wrapper import has_just_stepped
from hybrid_dense.engine.resume_command import command_of
from hybrid_dense.engine.stop import INTERRUPTED, TERMINATED, TrainingStopped

# In rising order: where ranks have got different signals, the last one counts.
SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
WORKER_GRACE = 120
"""Seconds that a data worker outlives a SIGTERM that was sent to the whole process group."""
ORPHAN_SECONDS = 5.0
"""Between two looks of a data worker whether the process that it loads for is still there."""


@HOOKS.register_module()
class SignalHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C: finish the iteration, save a checkpoint, end with exit code 143 or 130.

    A signal that one rank gets stops all of them after the same iteration: in each iteration they exchange a number in
    the background and read it in the next. With gradient accumulation the training ends after the next step of the
    optimizer, so that no gradients are lost. A signal during a validation ends it after the next batch; the checkpoint
    is then that of the end of the epoch (or of the iteration before the validation), and a resumed training goes on
    behind it, without that validation. A second Ctrl-C ends the process at once.

    The handlers stand from the start of the training loop to its end, and only where it runs in the main thread.
    Data workers ignore Ctrl-C and SIGUSR1. A SIGTERM that reaches them too, as from torchrun, they survive for
    `WORKER_GRACE` seconds, because the iteration that is to be finished needs them.
    """

    # After the checkpoint hook, so that a checkpoint that is due anyway is there first.
    priority = "LOWEST"

    def __init__(self):
        self.received = 0  # place in SIGNALS + 1
        self.agreed = 0
        self.broken_off = False
        self.agreement: Agreement | None = None
        self.handlers: dict[signal.Signals, object] = {}
        # One byte that data workers share: 1 when they are to obey SIGTERM.
        self.workers_may_end = mmap.mmap(-1, 1)
        atexit.register(self._release_workers)

    def before_run(self, runner) -> None:
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and not hasattr(loop.run, "catches_signals"):
            loop.run = self._catching(runner, loop.run)

    def _catching(self, runner, run):
        """The loop's own ``run``, with an end to handlers and to a validation that was cut off."""

        @functools.wraps(run)
        def run_and_restore():
            try:
                return run()
            except _ValidationCutOff as cut:
                # Here the loop has left everything that surrounds a validation, its random numbers for instance.
                if cut.averaged_weights:
                    for hook in runner.hooks:
                        if isinstance(hook, EMAHook):
                            hook.after_val_epoch(runner, {})
                self._save_and_stop(runner, runner.iter)
            except Exception:
                if self.broken_off:  # a library has made something else of the KeyboardInterrupt, as yapf's caller does
                    raise KeyboardInterrupt from None
                raise
            finally:
                self._restore_handlers()

        run_and_restore.catches_signals = True
        return run_and_restore

    def before_train(self, runner) -> None:
        self.received = self.agreed = 0
        self.workers_may_end[0] = 0
        self.agreement = Agreement()
        self._shield_workers(runner.train_dataloader)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.handlers[number] = signal.signal(number, self._receive)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.agreement is None:
            return
        # What all have agreed on needs no further exchange, and all of them leave it out.
        self.agreed = self.agreed or self.agreement.exchange(self.received)
        if self.agreed and has_just_stepped(runner.optim_wrapper):
            self._save_and_stop(runner, runner.iter + 1)

    def before_val(self, runner) -> None:
        if self.agreement is None:
            return
        self._shield_workers(runner.val_dataloader)
        self.agreed = self.agreed or self.agreement.finish()
        # Ranks may have different numbers of batches; they exchange as often as the one with the fewest.
        received, fewest = self.agreement.largest(self.received, -len(runner.val_dataloader))
        self.agreed, self.shared_batches = self.agreed or received, -fewest
        if self.agreed:
            raise _ValidationCutOff(averaged_weights=False)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.agreement is None or batch_idx >= self.shared_batches:
            return
        self.agreed = self.agreement.exchange(self.received)
        if self.agreed:
            raise _ValidationCutOff(averaged_weights=True)

    def after_train(self, runner) -> None:
        # A signal in the last iteration: the training has ended all the same.
        self.agreement.finish()
        self.agreement = None

    def _receive(self, number: int, frame) -> None:
        number = signal.Signals(number)
        if number == signal.SIGINT and self.received:
            self._restore_handlers()
            self.broken_off = True
            raise KeyboardInterrupt
        self.received = max(self.received, SIGNALS.index(number) + 1)
        if number == signal.SIGINT and is_main_process():
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nCtrl-C: ending after this iteration, with a checkpoint; once more ends at once\n")

    def _save_and_stop(self, runner, iterations: int) -> None:
        number = SIGNALS[self.agreed - 1]
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        runner.logger.info(f"{name}: the training ends after iteration {iterations}")
        saved = save_checkpoint(runner, iterations)
        # A rank that ended before the first one has saved would take it along: launchers end the rest with the first.
        self.agreement.wait_for_all()
        self.agreement = None
        self._release_workers()
        message = f"{name}: saved {saved} after iteration {iterations}; go on with: {command_of(runner)}"
        runner.logger.info(message)
        raise TrainingStopped(INTERRUPTED if number == signal.SIGINT else TERMINATED, message)

    def _restore_handlers(self) -> None:
        self._release_workers()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _release_workers(self) -> None:
        self.workers_may_end[0] = 1

    def _shield_workers(self, loader: DataLoader) -> None:
        """Prepare the data workers that this loader will start."""
        earlier = loader.worker_init_fn
        if getattr(earlier, "func", None) is not _prepare_worker:
            context = loader.multiprocessing_context or multiprocessing
            # Only a forked worker shares the byte.
            shared = self.workers_may_end if context.get_start_method() == "fork" else None
            loader.worker_init_fn = functools.partial(_prepare_worker, earlier, shared)


class _ValidationCutOff(Exception):
    """Leads out of a validation; ``averaged_weights``: inside it the model holds those of EMAHook."""

    def __init__(self, averaged_weights: bool):
        super().__init__("a signal has ended this validation")
        self.averaged_weights = averaged_weights


def save_checkpoint(runner, iterations: int) -> Path:
    """Save the state after so many iterations through the runner's checkpoint hook, or without one; returns the path.

    What the hook has just saved for this very state is not saved again.
    """
    hook = next((hook for hook in runner.hooks if hasattr(hook, "save_now")), None)
    if hook is not None:
        latest = Path(getattr(hook, "last_ckpt", None) or "")
        epoch_ended = runner.iter == iterations  # within one, the runner has not counted this iteration yet
        if latest.name == f"iter_{iterations}.pth" or (epoch_ended and latest.name == f"epoch_{runner.epoch}.pth"):
            return latest
        return hook.save_now(runner, iterations)
    name = f"iter_{iterations}.pth"
    meta = dict(epoch=runner.epoch, iter=iterations)
    runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
    if is_main_process():
        Path(runner.work_dir, "last_checkpoint").write_text(name)
    return Path(runner.work_dir, name)


def _prepare_worker(earlier, workers_may_end: mmap.mmap | None, worker_id: int) -> None:
    """Start of a data worker. torch's own handler, which is in place by now, would end it at once on any SIGTERM."""
    if earlier is not None:
        earlier(worker_id)
    parent = os.getppid()

    def end(number, frame):
        if os.getppid() != parent or (workers_may_end is not None and workers_may_end[0]):
            os._exit(0)
        signal.alarm(WORKER_GRACE)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this data worker when its parent was killed; torch's would stay for good if a batch waits in a full pipe."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)
