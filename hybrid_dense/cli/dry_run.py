"""`train --dry-run`: what a training will take, from its first iterations; nothing of them stays."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner

from hybrid_dense.cli import CommandError
from hybrid_dense.cli.durations import duration
from hybrid_dense.cli.session import build_runner, resume_from
from hybrid_dense.cli.training_head import COURSE, TrainingHead
from hybrid_dense.engine.dry_run import ITERATIONS, DryRun, dry_run_config, take_first_iterations
from hybrid_dense.engine.memory import is_out_of_memory
from hybrid_dense.engine.stop import TERMINATED, TrainingStopped

# What would end the process where it stands.
ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
NO_ROOM = "the training does not fit into memory; try a smaller batch_size, --checkpointing or --auto-batch"


def dry_run(cfg: Config) -> None:
    """Take the first iterations of a training and print what the whole of it will take."""
    if get_rank() == 0:
        print(f"dry run: at most {ITERATIONS} iterations; nothing is saved", flush=True)
    if cfg.get("resume") is True and not cfg.get("load_from"):
        resume_from(cfg, "auto")  # the runner would look for a checkpoint in the temporary folder
    with leaving_on_signals(), temporary_folder() as folder:
        runner = build_runner(dry_run_config(cfg, folder), ("train", "val"))
        runner.register_hook(TrainingHead(COURSE))
        try:
            run = take_first_iterations(runner)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise CommandError(f"{NO_ROOM} ({str(error).partition('. ')[0]})") from error
        seen = all_gather_object(run)
    if get_rank() == 0:
        print(report(runner, seen), flush=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed with all temporary files of the time between, those of killed data workers too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Let the signals of ``ENDING`` raise an exception, so that the temporary folder goes too; ignored ones stay so."""

    def leave(number, frame):
        raise TrainingStopped(TERMINATED, "the dry run was stopped; nothing of it stays")

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(runner: Runner, seen: list[DryRun]) -> str:
    """What the processes have seen, as lines; where they differ, the slowest and the largest count."""
    first = seen[0]
    iteration, wait = max(run.iteration for run in seen), max(run.wait for run in seen)
    validation = max(run.validation for run in seen)
    whole = first.iterations * iteration + first.validations * validation
    lines = {
        "taken": describe_taken(len(first.steps), len(runner.train_dataloader)),
        "iteration": f"{iteration:.3g} s (median of {first.counted}), {wait / iteration:.0%} of it waiting for data",
        "memory": f"{max(run.peak for run in seen) / 2**30:.2f} GiB at its peak, {describe_memory(len(seen))}",
        "schedule": f"{describe_length(runner, first)}: {duration(first.iterations * iteration)}",
    }
    if first.validations:
        lines["validation"] = (
            f"{first.validations} × {first.validation_batches} batches: {duration(first.validations * validation)}, "
            f"estimated from {len(first.batches_counted)} of them"
        )
    lines["whole"] = f"about {duration(whole)}; start, checkpoints and the metrics' last sums come on top"
    return "\n".join(f"  {name:10} {text}" for name, text in lines.items())


def describe_taken(taken: int, batches: int) -> str:
    """``20 iterations``, with a word on data that was too little and on a schedule that is shorter."""
    text = f"{taken} iteration{'' if taken == 1 else 's'}"
    if taken > batches:
        text += f", {math.ceil(taken / batches)} times over the {batches} batches that there are"
    return text + ("" if taken == ITERATIONS else "; the schedule has no more")


def describe_memory(processes: int) -> str:
    if torch.cuda.is_available():
        return "held by the GPU's allocator" + (", the fullest of them" if processes > 1 else "")
    return "resident in a process, its data workers not counted"


def describe_length(runner: Runner, run: DryRun) -> str:
    """``12 epochs of 7330 iterations``, or what of them is left."""
    if run.iterations < runner.max_iters:
        return f"{run.iterations} iterations left of {runner.max_iters}"
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return f"{runner.max_epochs} epochs of {len(runner.train_dataloader)} iterations"
    return f"{runner.max_iters} iterations"
