"""Ranks agree on a small number, without waiting for each other in the hot path."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Agreement:
    """A gloo group beside the one that trains: it moves a CPU number in the background and never touches a GPU.

    Every rank must call the same methods in the same order. With one process nothing is exchanged.
    """

    def __init__(self):
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        self.group = None if alone else dist.new_group(backend="gloo")
        self.pending: tuple[torch.Tensor, dist.Work] | None = None

    def exchange(self, value: int) -> int:
        """Give this rank's number; returns the largest that any rank gave in the call before, 0 in the first call.

        One process gets its own number back at once.
        """
        if self.group is None:
            return value
        agreed = self.finish()
        number = torch.tensor([value])
        self.pending = number, dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return agreed

    def finish(self) -> int:
        """The largest number of the last `exchange`, 0 if there is none to read."""
        if self.pending is None:
            return 0
        number, work = self.pending
        work.wait()
        self.pending = None
        return int(number)

    def largest(self, *values: int) -> list[int]:
        """The largest of each number over all ranks, now: waits for the slowest rank."""
        numbers = torch.tensor(values)
        if self.group is not None:
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)
        return numbers.tolist()

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        self.largest(0)
