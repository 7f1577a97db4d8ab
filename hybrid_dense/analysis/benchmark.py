"""Time several things side by side, so that a busy machine slows all of them down alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch

from hybrid_dense.analysis.machine import Gemm
from hybrid_dense.analysis.workload import PASSES, Workload

# A block of runs lasts at least this long, so that the clock and other programs' time slices do not count.
BLOCK_SECONDS = 1.0
WARM_UP = 2


class DoesNotFit(Exception):
    """A measurement needs more memory than it may take."""


@dataclass(frozen=True)
class Job:
    """Something to be timed, and what has to be done before it and is not timed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Row:
    """One subject in one mode at one size: the seconds of one step, a number for each round.

    ``flops`` are those of the step, ``memory`` its peak bytes with the weights, ``step_memory`` above them.
    """

    subject: str
    mode: str
    size: int
    batch: int
    seconds: tuple[float, ...]
    parameters: int
    flops: int
    memory: int | None = None
    step_memory: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float | None:
        """Distance of the quartiles over the median; None for less than three rounds."""
        if len(self.seconds) < 3:
            return None
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / self.median

    @property
    def images_per_second(self) -> float:
        return self.batch / self.median

    def record(self, gemm_rate: float) -> dict:
        """Plain values for JSON."""
        return dict(
            subject=self.subject,
            mode=self.mode,
            size=self.size,
            batch=self.batch,
            seconds=list(self.seconds),
            median=self.median,
            minimum=min(self.seconds),
            spread=self.spread,
            images_per_second=self.images_per_second,
            parameters=self.parameters,
            gflops=self.flops / 1e9,
            gemm_share=self.flops / self.median / gemm_rate,
            memory=self.memory,
            step_memory=self.step_memory,
        )


@dataclass
class Benchmark:
    """Everything that was measured; ``gemm_rate`` is the machine's FLOP/s, ``skipped`` says what did not fit."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    gemm_seconds: list[float] = field(default_factory=list)
    gemm_flops: int = 0

    @property
    def gemm_rate(self) -> float:
        return self.gemm_flops / min(self.gemm_seconds)

    def find(self, subject: str, mode: str, size: int) -> Row | None:
        keys = (subject, mode, size)
        return next((row for row in self.rows if (row.subject, row.mode, row.size) == keys), None)


def run_benchmark(
    workloads: Mapping[str, Workload],
    sizes: Sequence[int],
    modes: Sequence[str],
    repeat: int,
    gemm: Gemm,
    measure: Callable[[str, int, str], tuple[int, int]] | None = None,
    synchronize: Callable[[], object] = lambda: None,
    progress: Callable[[str], object] = lambda text: None,
    block_seconds: float = BLOCK_SECONDS,
) -> Benchmark:
    """Measure every workload at every size in every mode, size by size, all in turn.

    Args:
        workloads: by the name of their subject.
        repeat: rounds; every round takes each measurement once, and a matrix product between them.
        measure: (subject, size, mode) to peak bytes and those of the step alone; raises ``DoesNotFit``, and then the
            measurement and its larger sizes are left out. None measures no memory.
        progress: told the name of every measurement once it is done.
        block_seconds: as for ``time_interleaved``.
    """
    found = Benchmark(gemm_flops=gemm.flops)
    too_large: set[tuple[str, str]] = set()
    for size in sorted(sizes):
        memories = {}
        for name in workloads:
            for mode in modes:
                try:
                    if (name, mode) in too_large:
                        raise DoesNotFit("a smaller size did not fit")
                    memories[name, mode] = (None, None) if measure is None else measure(name, size, mode)
                except DoesNotFit as error:
                    too_large.add((name, mode))
                    found.skipped.append(f"{name}, {mode} at {size}×{size} is left out: {error}")
        # What is measured first pays for what others find ready, so everything is loaded before anything runs.
        for name in dict.fromkeys(name for name, _ in memories):
            workloads[name].load(size)
        flops = {name: workloads[name].count_forward() for name in dict.fromkeys(name for name, _ in memories)}
        jobs = {
            (name, mode): Job(partial(workloads[name].run, mode), partial(workloads[name].prepare, mode))
            for name, mode in memories
        }
        products = {("matrix product", form): Job(product) for form, product in gemm.products().items()}
        times = time_interleaved(
            {**products, **jobs}, repeat, block_seconds=block_seconds, synchronize=synchronize, progress=progress
        )
        for key in products:
            found.gemm_seconds += times[key]
        for (name, mode), (memory, step_memory) in memories.items():
            work = workloads[name]
            found.rows.append(
                Row(
                    subject=name,
                    mode=mode,
                    size=size,
                    batch=work.batch,
                    seconds=tuple(times[name, mode]),
                    parameters=work.count_parameters(),
                    flops=PASSES[mode] * flops[name],
                    memory=memory,
                    step_memory=step_memory,
                )
            )
    return found


def time_interleaved(
    jobs: Mapping[tuple[str, str], Job],
    repeat: int,
    warm_up: int = WARM_UP,
    block_seconds: float = BLOCK_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] = lambda: None,
    progress: Callable[[str], object] = lambda text: None,
) -> dict[tuple[str, str], list[float]]:
    """Seconds of one run of each job, ``repeat`` times, in the order A B C A B C …

    Each job first runs ``warm_up`` times untimed. A measurement is a block of as many runs as last ``block_seconds``.
    """

    def take(job: Job, count: int) -> float:
        job.prepare()
        synchronize()
        start = clock()
        for _ in range(count):
            job.run()
        synchronize()
        return (clock() - start) / count

    counts = {}
    for key, job in jobs.items():
        seconds = min(take(job, 1) for _ in range(warm_up))
        counts[key] = max(1, math.ceil(block_seconds / seconds)) if seconds > 0 else 1
        progress(", ".join(key))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for _ in range(repeat):
        for key, job in jobs.items():
            times[key].append(take(job, counts[key]))
            progress(", ".join(key))
    return times


def ratio(row: Row, *others: Row) -> float:
    """How many times the time of ``others`` together a row takes: the median over the rounds.

    Both sides of a round were measured within seconds of each other, so drifts of the machine cancel out.
    """
    sums = [sum(times) for times in zip(*(other.seconds for other in others), strict=True)]
    return statistics.median(mine / theirs for mine, theirs in zip(row.seconds, sums, strict=True))


@dataclass(frozen=True)
class Growth:
    """The exponent with which something grows with the image's side: between neighbouring sizes, and over all."""

    sizes: tuple[int, ...]
    factors: tuple[float, ...]
    exponents: tuple[float, ...]
    overall: float


def find_growth(sizes: Sequence[int], values: Sequence[float]) -> Growth:
    """The growth of ``values``; an image of twice the side has four times the pixels: exponent 2.

    The overall exponent is the slope of the straight line through all points, both axes logarithmic.
    """
    pairs = list(pairwise(zip(sizes, values, strict=True)))
    factors = tuple(large / small for (_, small), (_, large) in pairs)
    exponents = tuple(
        math.log(factor) / math.log(after / before)
        for factor, ((before, _), (after, _)) in zip(factors, pairs, strict=True)
    )
    slope = statistics.linear_regression([math.log(size) for size in sizes], [math.log(value) for value in values])
    return Growth(tuple(sizes), factors, exponents, slope.slope)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done everything that it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
