"""Stop a training whose loss or gradients are not finite, before it harms the weights, and say at which images."""

from __future__ import annotations

import json
import math
import shlex
import socket
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from hybrid_dense.engine import files
from hybrid_dense.engine.batch_contents import describe_images, image_paths, paths_of, write_pictures
from hybrid_dense.engine.full_disk import is_write_failure
from hybrid_dense.engine.optim_wrapper import MAX_OVERFLOWS, GuardedOptimWrapper, has_just_stepped
from hybrid_dense.engine.parts import unwrap
from hybrid_dense.engine.rank_log import log_from_any_rank
from hybrid_dense.engine.resume_command import command_of
from hybrid_dense.engine.stop import SICK, TrainingStopped

SPIKE_WINDOW, SPIKE_START = 100, 50
"""A spike is measured against the median of the last losses, once there are enough of them; also the least distance of
two reports, in iterations."""
_NAMES_IN_MESSAGE = 4


@dataclass(frozen=True)
class _Step:
    """One iteration since the optimizer's last step."""

    iteration: int
    batch: object
    losses: dict[str, Tensor]


@HOOKS.register_module()
class SicknessHook(Hook):
    """Watch loss and gradients together with `GuardedOptimWrapper`, which never takes a step that is not finite.

    What is not finite is written to ``<work_dir>/sick/iter_<n>/``: `batch.json` (images and losses by name of every
    rank, learning rates, the gradient norm and the parameters whose gradients are not finite), the images as they went
    into the network, and `state.pth`, a checkpoint from before the step: resumed, it meets the same batch again.

    A loss that jumps to ``spike`` times the median of the last 100 is a warning with the names of its images, at most
    once in 100 iterations. For it and for the checks, nothing is read from the GPU that mmengine has not read.

    Without `GuardedOptimWrapper` (DeepSpeed's steps, for instance) a loss that is not finite still stops the training,
    one iteration later, on the rank that sees it; its weights may have taken harm by then.

    Args:
        on_nonfinite: "stop" ends with exit code 3 and one line; "skip" goes on with the next batch.
        max_skips: skipped steps after which the training stops all the same. Overflows of float16 do not count. Only
            the first of them keeps its state.pth, for room's sake.
        spike: how many times the median a loss is a spike; None or 0 for no such reports.
    """

    # Before the hooks that log losses, average weights and save: they are not to see what is not finite.
    priority = "HIGHEST"

    def __init__(self, on_nonfinite: str = "stop", max_skips: int = 10, spike: float | None = 5.0):
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite={on_nonfinite!r}; use 'stop' or 'skip'")
        if spike and spike <= 1:
            raise ValueError(f"spike={spike} would report every loss; use a factor above 1, or None for no reports")
        self.on_nonfinite, self.max_skips, self.spike = on_nonfinite, max_skips, spike
        self.skips = 0
        self.meta: dict = {}  # of the checkpoint that is being written
        self.steps: list[_Step] = []
        self.found: dict | None = None
        self.losses: deque[float] = deque(maxlen=SPIKE_WINDOW)
        self.last_images: list[str] | None = None
        self.last_report = -SPIKE_WINDOW

    def state_dict(self) -> dict:
        return dict(skips=self.skips, losses=list(self.losses), last_report=self.last_report)

    def load_state_dict(self, state: dict) -> None:
        self.skips, self.last_report = state["skips"], state["last_report"]
        self.losses = deque(state["losses"], maxlen=SPIKE_WINDOW)

    def before_train(self, runner) -> None:
        self.guarded = isinstance(runner.optim_wrapper, GuardedOptimWrapper)
        if self.guarded:
            runner.optim_wrapper.on_nonfinite = lambda norm: self._note(runner, norm)
        elif self.on_nonfinite == "skip":
            kind = type(runner.optim_wrapper).__name__
            raise ValueError(f"on_nonfinite='skip' needs optim_wrapper.type='GuardedOptimWrapper', this one is {kind}")
        self.steps, self.found, self.last_images = [], None, None

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Look at the loss of the iteration before, which mmengine has read by now."""
        if self.last_images is None:
            return
        losses = runner.message_hub.log_scalars.get("train/loss")
        loss = losses.current() if losses is not None else 0.0
        if math.isfinite(loss):
            self._look_for_spike(runner, loss)
        elif not self.guarded:
            raise TrainingStopped(
                SICK,
                f"the loss is {loss} at iteration {runner.iter}; images: {_some(self.last_images)}; the weights "
                "may have taken harm, resume from a checkpoint before it",
            )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.last_images = image_paths(data_batch)
        if self.guarded and outputs:
            _read_at_once(outputs)
        losses = {name: torch.as_tensor(value).detach() for name, value in (outputs or {}).items() if _is_number(value)}
        self.steps.append(_Step(runner.iter + 1, data_batch, losses))
        if self.found is not None:
            # Every rank is here: the norm of the gradients is the same for all.
            found, self.found = self.found, None
            self._treat(runner, found)
        for name in [name for name, value in (outputs or {}).items() if self.guarded and not _is_finite(value)]:
            del outputs[name]  # or the averages in the log would be NaN for many steps
        if has_just_stepped(runner.optim_wrapper):
            self.steps = []

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        # FlexibleRunner counts the step that was not taken, also where it is told otherwise.
        checkpoint["meta"].update(self.meta)

    def _note(self, runner, norm: float) -> None:
        """Called by the optimizer wrapper instead of a step, while the gradients are still there."""
        trained = [(name, p.grad) for name, p in unwrap(runner.model).named_parameters() if p.grad is not None]
        self.found = dict(
            gradient_norm=norm,
            overflows=runner.optim_wrapper.overflows,
            parameters=[name for name, gradient in trained if not gradient.isfinite().all()],
            all_parameters=len(trained),
        )

    def _treat(self, runner, found: dict) -> None:
        own = dict(rank=get_rank(), host=socket.gethostname(), batches=[_describe(step) for step in self.steps])
        ranks = all_gather_object(own)
        sick = [batch for rank in ranks for batch in rank["batches"] if not batch["finite"]]
        iteration = self.steps[-1].iteration
        reason = _reason(sick, found, iteration)
        blamed = sick or [batch for rank in ranks for batch in rank["batches"]]
        images = [path for batch in blamed for path in paths_of(batch["images"])]
        self.skips += 1
        stops = self.on_nonfinite == "stop" or self.skips > self.max_skips
        folder = Path(runner.work_dir, "sick", f"iter_{iteration}")
        about = dict(reason=reason, iteration=iteration, **found)
        failure = self._write(runner, folder, about, ranks, with_state=stops or self.skips == 1)
        written = f"written to {folder}" if failure is None else f"{folder} could not be written: {failure}"
        message = f"{reason}; images: {_some(images)}; {written}"
        if not stops:
            runner.logger.warning(f"{message}; skipped ({self.skips} of at most {self.max_skips})")
            return
        barrier()  # a rank that ended earlier would take the one that still writes along
        if self.on_nonfinite == "skip":
            message += f"; {self.skips} steps could not be taken, more than max_skips={self.max_skips}"
        else:
            state = "auto" if failure else shlex.quote(str(folder / "state.pth"))
            command = command_of(runner).replace("--resume auto", f"--resume {state}")
            message += f"; go on without them with --on-nonfinite skip: {command} --on-nonfinite skip"
        runner.logger.error(message)
        raise TrainingStopped(SICK, message)

    def _write(self, runner, folder: Path, about: dict, ranks: list[dict], with_state: bool) -> Exception | None:
        """Write what is known of the step; returns why it could not be. A full disk must not hide what has happened."""
        failure = None
        parts = [lambda: self._write_batch(runner, folder, about, ranks)]
        if with_state:
            parts.append(lambda: self._write_state(runner, folder))
        for write in parts:  # the second in any case, because saving a checkpoint may need all ranks
            try:
                write()
            except (OSError, RuntimeError) as error:
                if not is_write_failure(error):
                    raise
                failure = failure or error
        return failure

    def _write_batch(self, runner, folder: Path, about: dict, ranks: list[dict]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        all_finite = all(batch["finite"] for rank in ranks for batch in rank["batches"])
        for step, described in zip(self.steps, ranks[get_rank()]["batches"], strict=True):
            if all_finite or not described["finite"]:
                write_pictures(step.batch, folder, f"rank{get_rank()}_iter{step.iteration}_image")
        rates = {name: list(values) for name, values in runner.optim_wrapper.get_lr().items()}
        if is_main_process():
            content = dict(about, learning_rates=rates, ranks=ranks)
            files.write_text(folder / "batch.json", json.dumps(_strict(content), indent=1, allow_nan=False) + "\n")

    def _write_state(self, runner, folder: Path) -> None:
        path = folder / "state.pth"
        temporary = files.temporary_path(path)
        self.meta = dict(epoch=runner.epoch, iter=self.steps[0].iteration - 1)
        try:
            runner.save_checkpoint(str(folder), temporary.name, meta=dict(self.meta), by_epoch=False)
            if is_main_process():
                files.put_in_place(temporary, path)
        finally:
            self.meta = {}
            if is_main_process():
                files.discard_temporary(path)

    def _look_for_spike(self, runner, loss: float) -> None:
        usual = statistics.median(self.losses) if len(self.losses) >= SPIKE_START else 0.0
        self.losses.append(loss)
        if not self.spike or usual <= 0 or loss <= self.spike * usual or runner.iter - self.last_report < SPIKE_WINDOW:
            return
        self.last_report = runner.iter
        text = (
            f"loss {loss:.4g} at iteration {runner.iter} is {loss / usual:.1f} times the median of the last "
            f"{len(self.losses) - 1}; images: {_some(self.last_images, 16)}"
        )
        log_from_any_rank(runner.logger, text)


def _describe(step: _Step) -> dict:
    losses = {name: float(value) for name, value in step.losses.items()}
    finite = all(math.isfinite(value) for name, value in losses.items() if "loss" in name)
    return dict(iteration=step.iteration, images=describe_images(step.batch), losses=losses, finite=finite)


def _reason(sick: list[dict], found: dict, iteration: int) -> str:
    names = [
        name for batch in sick for name, value in batch["losses"].items() if "loss" in name and not math.isfinite(value)
    ]
    # The total follows from the parts, and says least.
    parts = list(dict.fromkeys(name for name in names if name != "loss")) or list(dict.fromkeys(names))
    if parts:
        verb = "is" if len(parts) == 1 else "are"
        return f"{', '.join(parts)} {verb} not finite at iteration {iteration}"
    if found["overflows"] >= MAX_OVERFLOWS:
        return f"float16 has overflowed in {found['overflows']} steps in a row at iteration {iteration}"
    where = found["parameters"][-1] if found["parameters"] else "their sum"
    count = f"{len(found['parameters'])} of {found['all_parameters']} parameters"
    return f"the losses are finite, but not the gradients of {count}, such as {where}, at iteration {iteration}"


def _read_at_once(outputs: dict) -> None:
    """Bring all single values to the CPU together, in place: each on its own would wait for the GPU."""
    singles = {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.numel() == 1}
    if singles:
        values = torch.stack([value.detach().reshape(()).float() for value in singles.values()]).cpu()
        outputs.update(zip(singles, values, strict=True))


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_finite(value) -> bool:
    return not _is_number(value) or bool(torch.as_tensor(value).isfinite())


def _some(names: list[str], count: int = _NAMES_IN_MESSAGE) -> str:
    if not names:
        return "not named by the batch"
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _strict(value):
    """For JSON, which knows no NaN: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
