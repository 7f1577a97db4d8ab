"""Which batch comes next, and its random numbers: a matter of where the training stands and of nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch.utils.data import DataLoader, IterableDataset, Sampler

from hybrid_dense.engine.random_states import seed_generators


class Draw(IntEnum):
    """What random numbers are drawn for; each gets seeds of its own."""

    ORDER = 0
    SAMPLE = 1
    STEP = 2
    EPOCH = 3
    EPOCH_END = 4


@dataclass(frozen=True)
class SeededBatch(Sequence):
    """The indices of one batch. Handing one out seeds the generators for the sample that is loaded with it.

    So a sample's augmentation does not depend on the worker that loads it, nor on what was loaded before, and data sets
    and workers need not know: torch loads a batch by iterating over its indices.
    """

    indices: Sequence
    key: tuple[int, ...]

    def __iter__(self) -> Iterator:
        for place, index in enumerate(self.indices):
            seed_generators(*self.key, place)
            yield index

    def __getitem__(self, place):
        return self.indices[place]

    def __len__(self) -> int:
        return len(self.indices)


class SeededBatches(Sampler):
    """A batch sampler's batches from any place of an epoch on, without loading those before; seeded, see `SeededBatch`.

    Samplers that draw from the global generators (torch's RandomSampler, mmdet's GroupMultiSourceSampler) are seeded
    too. Whatever else is asked of it, the wrapped batch sampler answers: ``sampler``, ``batch_size``, ``drop_last``.

    Args:
        batches: the batch sampler to go through.
        seed: seed of the order and of the samples, the same in all processes.
        rank: this process; its samples get random numbers of their own.
    """

    def __init__(self, batches, seed: int, rank: int):
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.start_at(0, 0)

    def start_at(self, epoch: int, position: int) -> None:
        """Let the next iteration be this epoch, from its batch number ``position`` on."""
        self.epoch, self.position = epoch, position

    def __iter__(self) -> Iterator[SeededBatch]:
        epoch, start = self.epoch, self.position
        batches = iter(self.batches)
        for position in itertools.count():
            seed_generators(Draw.ORDER, self.seed, epoch, position)
            try:
                batch = next(batches)
            except StopIteration:
                return
            if position >= start:
                yield SeededBatch(batch, (Draw.SAMPLE, self.seed, self.rank, epoch, position))

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str):
        if name == "batches":  # not set yet: a copy or an unpickled one
            raise AttributeError(name)
        return getattr(self.batches, name)


def put_in_order(loader: DataLoader, seed: int, rank: int) -> SeededBatches:
    """Make a data loader go through `SeededBatches`, which are returned.

    Raises:
        ValueError: the loader has no batches of indices to put in order.
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            f"train_dataloader reads a {type(loader.dataset).__name__} that it cannot take up in the middle; give it a "
            "data set with indices and a batch_size, or train with type='mmengine.EpochBasedTrainLoop'"
        )
    batches = loader.batch_sampler
    if isinstance(batches, SeededBatches):  # the loader of an earlier run in this process
        batches = batches.batches
    ordered = SeededBatches(batches, seed, rank)
    # Past the loader's own guard: a new loader would be a risk for hooks, which hold and change this one.
    object.__setattr__(loader, "batch_sampler", ordered)
    return ordered
