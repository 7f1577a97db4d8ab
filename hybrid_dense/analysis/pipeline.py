"""Where the time of a data pipeline goes: each transform's seconds an image, and the work on masks within."""

from __future__ import annotations

import functools
import time
from abc import ABC
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

MASK_LOADER = "_load_masks"
"""The method of a loading transform that reads and rasterises masks."""


@dataclass(frozen=True)
class Step:
    """One transform: mean seconds an image, and the part of them that goes to masks."""

    name: str
    seconds: float
    mask_seconds: float


@dataclass(frozen=True)
class PipelineTimes:
    """The transforms in their order, over ``images`` that came through; ``refused`` did not."""

    steps: tuple[Step, ...]
    images: int
    refused: int

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def mask_seconds(self) -> float:
        return sum(step.mask_seconds for step in self.steps)

    def record(self) -> dict:
        """Plain values for JSON."""
        steps = [dict(step.__dict__, share=step.seconds / self.seconds) for step in self.steps]
        return dict(
            images=self.images,
            refused=self.refused,
            images_per_second=1 / self.seconds,
            seconds=self.seconds,
            mask_share=self.mask_seconds / self.seconds,
            transforms=steps,
        )


class Stopwatch:
    """Adds up the time inside of the functions that it wraps; a call within a call counts once."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.seconds, self.depth = clock, 0.0, 0

    def wrap(self, function):
        """The same function or property, timed."""
        if isinstance(function, property):
            return property(self.wrap(function.fget), function.fset, function.fdel, function.__doc__)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            self.depth += 1
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += self.clock() - start

        return timed

    @contextmanager
    def watching(self, classes: Iterable[type], methods: Callable[[type], Iterable[str]]) -> Iterator[None]:
        """Wrap these methods of these classes for as long as the block runs."""
        saved = [(cls, name, cls.__dict__[name]) for cls in set(classes) for name in methods(cls)]
        try:
            for cls, name, function in saved:
                setattr(cls, name, self.wrap(function))
            yield
        finally:
            for cls, name, function in saved:
                setattr(cls, name, function)


def time_pipeline(
    dataset,
    indices: Iterable[int],
    mask_classes: Iterable[type] = (),
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[], object] = lambda: None,
) -> PipelineTimes:
    """Take these images of an mmengine data set through its pipeline, one transform after the other.

    Args:
        dataset: one with ``get_data_info`` and ``pipeline.transforms``; wrappers around it are looked through.
        mask_classes: what masks are made of; time in their methods and properties, choosing among them included, and
            in a transform's ``_load_masks`` is mask work.

    Raises:
        ValueError: no image came through.
    """
    dataset = innermost(dataset)
    transforms = dataset.pipeline.transforms
    seconds, mask_seconds = [0.0] * len(transforms), [0.0] * len(transforms)
    images = refused = 0
    watch = Stopwatch(clock)
    loaders = {owner(type(transform), MASK_LOADER) for transform in transforms} - {None}
    bases = {base for cls in mask_classes for base in cls.__mro__ if base not in (object, ABC)}
    with watch.watching(bases, own_methods), watch.watching(loaders, lambda cls: [MASK_LOADER]):
        for index in indices:
            data = dataset.get_data_info(index)
            spent = []
            for transform in transforms:
                masks, start = watch.seconds, clock()
                data = transform(data)
                spent.append((clock() - start, watch.seconds - masks))
                if data is None:
                    break
            progress()
            if data is None:
                refused += 1
                continue
            images += 1
            for place, (all_of_it, of_masks) in enumerate(spent):
                seconds[place] += all_of_it
                mask_seconds[place] += of_masks
    if not images:
        raise ValueError(
            f"the pipeline refused all {refused} images; look at its filters with `hybrid-dense check-data`"
        )
    names = [type(transform).__name__ for transform in transforms]
    steps = zip(names, seconds, mask_seconds, strict=True)
    return PipelineTimes(tuple(Step(name, all_ / images, mask / images) for name, all_, mask in steps), images, refused)


def own_methods(cls: type) -> list[str]:
    """The public methods and properties that a class itself defines, and its selection by index."""
    own = [name for name, value in vars(cls).items() if isinstance(value, (FunctionType, property))]
    return [name for name in own if not name.startswith("_") or name == "__getitem__"]


def owner(cls: type, method: str) -> type | None:
    """The class among the bases of ``cls`` that defines a method."""
    return next((base for base in cls.__mro__ if method in vars(base)), None)


def innermost(dataset):
    """The data set that has a pipeline, within those that repeat, join or balance others."""
    while not hasattr(dataset, "pipeline"):
        inner = getattr(dataset, "dataset", None) or next(iter(getattr(dataset, "datasets", ())), None)
        if inner is None:
            raise ValueError(f"{type(dataset).__name__} has no pipeline, and no data set with one inside")
        dataset = inner
    return dataset


def time_loader(loader, images: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Images/s of a data loader with its workers running, over at least so many images.

    The first batch, for which workers start, and those that were ready by then are not counted.
    """
    batches = endless(loader)
    for _ in range(1 + loader.num_workers * (loader.prefetch_factor or 0)):
        next(batches)
    done, start = 0, clock()
    while done < images:
        done += len(next(batches)["inputs"])
    return done / (clock() - start)


def endless(loader) -> Iterator:
    while True:
        yield from loader
