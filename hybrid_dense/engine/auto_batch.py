"""Find the largest batch whose training steps fit in memory, by taking such steps in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from hybrid_dense.engine.memory import available_memory, is_out_of_memory, peak_memory
from hybrid_dense.engine.rehearsal import begin, rehearsal_config

HEAD_ROOM = 0.15
"""The share of the memory that stays free: for larger images, more objects, data workers and fragmentation."""
# Samples of the training data to choose the largest from, and steps to take with each batch. In the first step the
# optimizer makes its state; the second has all at once.
_SAMPLES, _STEPS = 64, 2
# On a CPU three batches tell what an image needs.
_CPU_FACTORS = (1, 2, 4)
_OWN_WORDS_FOR_ONE = "more than 1 value per channel"


@dataclass(frozen=True)
class Trial:
    """Training steps with ``batch`` images: the most memory they held, in bytes, or None where it was not enough."""

    batch: int
    peak: int | None


@dataclass(frozen=True)
class BatchSearch:
    """What was found.

    Args:
        batch: the largest number of images a process that fits.
        trials: what was tried, in this order.
        budget: bytes that a process may hold, head-room taken off.
        data: images that the data set has for each process; no batch is larger.
        sizes: the largest images, height and width.
        extrapolated: whether ``batch`` follows from the trials, as on a CPU, and was not tried itself.
    """

    batch: int
    trials: tuple[Trial, ...]
    budget: int
    data: int
    sizes: tuple[int, int]
    extrapolated: bool


def find_batch(
    cfg: Config,
    build: Callable[[Config], Runner],
    device: int = 0,
    world_size: int = 1,
    local_processes: int = 1,
    memory: int | None = None,
) -> BatchSearch:
    """Try real training steps on the largest images of the training data, in a child process.

    So nothing of it is left here: no weight, no random state, no memory. Steps are those of the config, its precision,
    checkpointing and EMA included; compilation and other hooks are left out, and weights are not loaded. On a GPU the
    batch is doubled until it does not fit, then halved down; on a CPU memory is extrapolated along a line.

    Args:
        cfg: config of the training.
        build: makes a runner of a config; a function of a module, because the child imports it.
        device: number of the GPU to try on.
        world_size: processes that share the data set.
        local_processes: processes that share this machine's memory; of a GPU's memory each has its own.
        memory: bytes to reckon with; None asks the machine.

    Raises:
        ValueError: not even the smallest batch fits, or the training cannot take a step; with the reason.
    """
    spawn = multiprocessing.get_context("spawn")
    answers, answer = spawn.Pipe(duplex=False)
    share = memory if memory is not None or torch.cuda.is_available() else available_memory() // local_processes
    child = spawn.Process(target=_explore, args=(answer, cfg, build, device, world_size, share), daemon=True)
    child.start()
    answer.close()
    trials: list[Trial] = []
    outcome, trying = None, 0
    try:
        for kind, content in _listen(answers):
            if kind == "trying":
                trying = content
            elif kind == "trial":
                trials.append(content)
            else:
                outcome = content
    except BaseException:
        child.terminate()
        raise
    child.join()
    if isinstance(outcome, BatchSearch):
        return outcome
    if outcome is None and trying:
        # The kernel ends a process for which there is no memory left.
        outcome = f"steps with a batch of {trying} ended the process that tried them (exit code {child.exitcode})"
    raise ValueError(f"--auto-batch: {outcome or f'the process that tries ended with exit code {child.exitcode}'}")


def _listen(answers) -> Iterator[tuple]:
    while True:
        try:
            yield answers.recv()
        except EOFError:
            return


def _explore(answer, cfg: Config, build: Callable, device: int, world_size: int, memory: int | None) -> None:
    """The child's part: build the training, try batches, and say what came of it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            answer.send(("found", _search(answer, cfg, build, device, world_size, memory, Path(folder))))
    except Exception as error:
        reason = str(error).strip().splitlines()[:1]
        kind = [] if isinstance(error, ValueError) else [type(error).__name__]
        answer.send(("found", ": ".join([*kind, *reason])))


def _search(answer, cfg, build, device: int, world_size: int, memory: int | None, folder: Path) -> BatchSearch:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(device)
        memory = torch.cuda.mem_get_info()[0] if memory is None else memory
    steps = _Steps(build(_alone(rehearsal_config(cfg, folder))))
    data = max(len(steps.loader.dataset) // world_size, 1)
    budget = int(memory * (1 - HEAD_ROOM))
    if world_size > 1:
        budget -= steps.gradients  # DistributedDataParallel sums them up in buckets of its own
    trials: list[Trial] = []

    def measure(batch: int) -> int | None:
        answer.send(("trying", batch))
        trials.append(Trial(batch, steps.peak(batch)))
        answer.send(("trial", trials[-1]))
        return trials[-1].peak

    first = 1
    try:
        measure(1)
    except ValueError as error:
        if _OWN_WORDS_FOR_ONE not in str(error) or data < 2:
            raise
        first = 2  # BatchNorm over a pooled map
        measure(2)
    if cuda:
        batch = largest(lambda batch: _fits(measure(batch), budget), first, data, _fits(trials[0].peak, budget))
    else:
        for factor in _CPU_FACTORS[1:]:
            if first * factor <= data and trials[-1].peak <= budget:
                measure(first * factor)
        batch = extrapolate(trials, budget, data)
    if batch < first:
        needed = "more" if trials[0].peak is None else f"{trials[0].peak / 2**30:.2f} GiB"
        raise ValueError(
            f"a batch of {first} needs {needed}, and {budget / 2**30:.2f} GiB are there ({HEAD_ROOM:.0%} kept free); "
            "--checkpointing, --amp, a smaller variant or smaller images need less"
        )
    return BatchSearch(batch, tuple(trials), budget, data, steps.sizes, extrapolated=not cuda)


def largest(fits: Callable[[int], bool], first: int, limit: int, first_fits: bool) -> int:
    """The largest number up to ``limit`` that fits, by doubling and halving; ``first`` - 1 where ``first`` does not."""
    if not first_fits:
        return first - 1
    good, bad = first, limit + 1
    while good < limit:
        # Twice as much until something has not fitted, then the middle.
        middle = min(2 * good, limit) if bad > limit else (good + bad) // 2
        if middle == good:
            break
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def extrapolate(trials: list[Trial], budget: int, limit: int) -> int:
    """The largest batch whose memory, along the steepest line through the trials, stays within the budget; 0 for none.

    A trial never tells less than the one before it, because peaks of a process only grow.
    """
    last = trials[-1]
    fitting = [trial.batch for trial in trials if trial.peak <= budget]
    if len(trials) == 1 or last.peak > budget:
        return min(max(fitting, default=0), limit)
    slope = max((last.peak - trial.peak) / (last.batch - trial.batch) for trial in trials[:-1])
    if slope <= 0:
        return limit
    return min(last.batch + int((budget - last.peak) / slope), limit)


def _fits(peak: int | None, budget: int) -> bool:
    return peak is not None and peak <= budget


def _alone(cfg: Config) -> Config:
    """As one process that reads its data itself, steps after each batch and says nothing of how it was started."""
    environment = cfg.get("env_cfg") or {}
    processes = dict(environment.get("mp_cfg") or {}, mp_start_method="spawn")
    cfg.env_cfg = dict(environment, mp_cfg=processes)
    cfg.launcher, cfg.load_from = "none", None
    cfg.model_wrapper_cfg = None
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.pop("prefetch_factor", None)
    cfg.optim_wrapper.accumulative_counts = 1
    return cfg


class _Steps:
    """A training that takes steps with any number of images."""

    def __init__(self, runner: Runner):
        begin(runner)
        self.model, self.wrapper, self.loader = runner.model, runner.optim_wrapper, runner.train_dataloader
        for group in self.wrapper.optimizer.param_groups:
            group["lr"] = 0.0  # weights that do not move cannot diverge
        if hasattr(self.wrapper, "on_nonfinite"):
            self.wrapper.on_nonfinite = lambda norm: None
        self.gradients = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        self.samples = choose_samples(self.loader.dataset)
        self.sizes = max((_size(sample) for sample in self.samples), key=lambda size: size[0] * size[1])

    def peak(self, batch: int) -> int | None:
        """Bytes that steps with so many images need, None where there is not enough memory."""
        cuda = torch.cuda.is_available()
        self.wrapper.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(_STEPS):
                # Preprocessors pad masks in place.
                samples = [deepcopy(self.samples[index % len(self.samples)]) for index in range(batch)]
                self.model.train_step(self.loader.collate_fn(samples), optim_wrapper=self.wrapper)
        except RuntimeError as error:
            # Where one image already ends in cuDNN's vague words, it may as well lack a kernel.
            vague = batch == 1 and not isinstance(error, torch.OutOfMemoryError)
            if not cuda or vague or not is_out_of_memory(error):
                raise
            return None
        return torch.cuda.max_memory_reserved() if cuda else peak_memory()


def choose_samples(dataset) -> list[dict]:
    """Samples out of the training pipeline: the largest, the widest, the tallest, the most crowded, then by size.

    A batch is padded to its widest and its tallest image, so these come first.
    """
    count = min(len(dataset), _SAMPLES)
    samples = [dataset[index * len(dataset) // count] for index in range(count)]
    ranked = sorted(samples, key=lambda sample: _size(sample)[0] * _size(sample)[1], reverse=True)
    first = [
        ranked[0],
        max(ranked, key=lambda sample: _size(sample)[1]),
        max(ranked, key=lambda sample: _size(sample)[0]),
        max(ranked, key=_count_objects),
    ]
    chosen: list[dict] = []
    for sample in [*first, *ranked]:
        if not any(sample is other for other in chosen):
            chosen.append(sample)
    return chosen


def _size(sample: dict) -> tuple[int, int]:
    inputs = sample["inputs"]
    return tuple(inputs.shape[-2:]) if isinstance(inputs, torch.Tensor) else (0, 0)


def _count_objects(sample: dict) -> int:
    return len(getattr(sample.get("data_samples"), "gt_instances", ()))
