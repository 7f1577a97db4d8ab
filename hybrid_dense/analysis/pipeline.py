"""Where the time of a data pipeline goes: each transform's seconds an image, and what kind of work takes them."""

from __future__ import annotations

import functools
import io
import pickle
import time
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType

from torch import Tensor

MASKS = "masks"
"""The kind of work that `time_pipeline` itself finds in transforms."""

MASK_LOADER = "_load_masks"
"""The method of a loading transform that reads and rasterises masks."""

HAND_OVER = "to the main process"
"""The step after the transforms: a sample is pickled for the pipe, but for its tensors, which go by shared memory."""


@dataclass(frozen=True)
class Step:
    """One transform: mean seconds an image, and the part of them that each kind of work takes."""

    name: str
    seconds: float
    parts: dict[str, float]


@dataclass(frozen=True)
class PipelineTimes:
    """The transforms in their order, then `HAND_OVER`, over ``images`` that came through; ``refused`` did not."""

    steps: tuple[Step, ...]
    images: int
    refused: int

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def shares(self) -> dict[str, float]:
        """What part of the time each kind of work takes; ``rest`` is of none."""
        kinds = self.steps[0].parts
        found = {kind: sum(step.parts[kind] for step in self.steps) / self.seconds for kind in kinds}
        return found | dict(rest=1 - sum(found.values()))

    def record(self) -> dict:
        """Plain values for JSON."""
        return dict(
            images=self.images,
            refused=self.refused,
            images_per_second=1 / self.seconds,
            seconds=self.seconds,
            shares=self.shares,
            transforms=[dict(step.__dict__, share=step.seconds / self.seconds) for step in self.steps],
        )


class Stopwatch:
    """Adds up the time inside of functions by kind of work; a call within a call counts once, for the outer."""

    def __init__(self, kinds: Iterable[str], clock: Callable[[], float]):
        self.clock, self.depth = clock, 0
        self.seconds = dict.fromkeys(kinds, 0.0)

    def wrap(self, kind: str, function):
        """The same function or property, timed."""
        if isinstance(function, property):
            return property(self.wrap(kind, function.fget), function.fset, function.fdel, function.__doc__)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            self.depth += 1
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds[kind] += self.clock() - start

        return timed

    @contextmanager
    def watching(self, kind: str, places: Iterable[tuple[object, str]]) -> Iterator[None]:
        """Wrap what stands under these names in these modules or classes for as long as the block runs."""
        saved = [(owner, name, vars(owner)[name]) for owner, name in set(places)]
        try:
            for owner, name, function in saved:
                setattr(owner, name, self.wrap(kind, function))
            yield
        finally:
            for owner, name, function in saved:
                setattr(owner, name, function)


def time_pipeline(
    dataset,
    indices: Iterable[int],
    mask_classes: Iterable[type] = (),
    functions: Mapping[str, Iterable[tuple[object, str]]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[], object] = lambda: None,
) -> PipelineTimes:
    """Take these images of an mmengine data set through its pipeline, one transform after the other.

    Args:
        dataset: one with ``get_data_info`` and ``pipeline.transforms``; wrappers around it are looked through.
        mask_classes: what masks are made of; time in their methods and properties, choosing among them and pickling
            them included, and in a transform's ``_load_masks`` is mask work.
        functions: other kinds of work: the functions that do it, each as a module and a name.

    Raises:
        ValueError: no image came through.
    """
    dataset = innermost(dataset)
    transforms = dataset.pipeline.transforms
    loaders = {owner(type(transform), MASK_LOADER) for transform in transforms} - {None}
    bases = {base for cls in mask_classes for base in cls.__mro__ if base not in (object, ABC)}
    places = dict(functions or {})
    places[MASKS] = [(cls, MASK_LOADER) for cls in loaders] + [
        (cls, name) for cls in bases for name in own_methods(cls)
    ]
    watch = Stopwatch(places, clock)
    names = [*(type(transform).__name__ for transform in transforms), HAND_OVER]
    seconds, parts = [0.0] * len(names), [dict.fromkeys(places, 0.0) for _ in names]
    images = refused = 0
    with ExitStack() as stack:
        for kind, owners in places.items():
            stack.enter_context(watch.watching(kind, owners))
        for index in indices:
            data = dataset.get_data_info(index)
            spent = []
            for step in (*transforms, hand_over):
                before, start = dict(watch.seconds), clock()
                data = step(data)
                spent.append((clock() - start, {kind: watch.seconds[kind] - before[kind] for kind in places}))
                if data is None:
                    break
            progress()
            if data is None:
                refused += 1
                continue
            images += 1
            for place, (all_of_it, by_kind) in enumerate(spent):
                seconds[place] += all_of_it
                for kind, of_it in by_kind.items():
                    parts[place][kind] += of_it
    if not images:
        raise ValueError(
            f"the pipeline refused all {refused} images; look at its filters with `hybrid-dense check-data`"
        )
    steps = [
        Step(name, all_of_it / images, {kind: of_it / images for kind, of_it in by_kind.items()})
        for name, all_of_it, by_kind in zip(names, seconds, parts, strict=True)
    ]
    return PipelineTimes(tuple(steps), images, refused)


def hand_over(sample) -> bytes:
    """What goes through the pipe from a worker to the main process."""
    buffer = io.BytesIO()
    _PipePickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(sample)
    return buffer.getvalue()


class _PipePickler(pickle.Pickler):
    def reducer_override(self, thing):
        return (bool, ()) if isinstance(thing, Tensor) else NotImplemented


def own_methods(cls: type) -> list[str]:
    """The public methods and properties that a class itself defines, its selection by index and its pickling."""
    own = [name for name, value in vars(cls).items() if isinstance(value, (FunctionType, property))]
    return [name for name in own if not name.startswith("_") or name in ("__getitem__", "__reduce__")]


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
