"""How far every process of a training has come, told to all others through the process group's store."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass

import torch.distributed as dist

INTERVAL = 2.0
"""Seconds between two beats. A process that has not beaten for three of them is gone."""
WAITING_FOR_RANKS = "waiting for a device or for other ranks"


@dataclass(frozen=True)
class Beat:
    """Where one process stands.

    Args:
        iteration: finished training iterations.
        batches: finished batches of the validation or test that it is in, else 0.
        doing: one of the words of `engine.hooks.watchdog`, such as "computing".
        line: where in the program its main thread stands.
        seconds: since it finished the last of them, by its own clock.
        count: goes up with each beat.
    """

    rank: int
    host: str
    pid: int
    iteration: int
    batches: int
    doing: str
    line: str
    seconds: float
    count: int

    @property
    def progress(self) -> tuple[int, int]:
        return self.iteration, self.batches


class Heartbeats:
    """The beats of all ranks, through a connection to the store of its own, so that it never waits for collectives.

    To be made after the process group; all methods raise `torch.distributed.DistError` when the process that keeps
    the store has gone.
    """

    def __init__(self):
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.store = _connect()
        self.count = 0

    def send(self, iteration: int, batches: int, doing: str, line: str, seconds: float) -> None:
        self.count += 1
        beat = Beat(self.rank, socket.gethostname(), os.getpid(), iteration, batches, doing, line, seconds, self.count)
        self.store.set(_key(self.rank), json.dumps(asdict(beat)))

    def _read(self, store: dist.Store) -> dict[int, Beat]:
        """The latest beat of each rank that has ever beaten."""
        # Reading a key that is not there would wait for it.
        ranks = [rank for rank in range(self.world_size) if store.check([_key(rank)])]
        return {rank: Beat(**json.loads(store.get(_key(rank)))) for rank in ranks}

    def behind(self) -> list[str]:
        """The ranks that the others wait for, in words; takes three intervals, to see who still lives.

        For another thread than the one that sends, which must go on.
        """
        store = _connect()
        earlier = self._read(store)
        missing = [rank for rank in range(self.world_size) if rank not in earlier]
        gone = {rank for rank, beat in earlier.items() if has_died(beat)}
        if not gone and not missing:
            time.sleep(3 * INTERVAL)
        now = self._read(store)
        if not gone and not missing:
            gone = {rank for rank, beat in now.items() if rank != self.rank and beat.count == earlier[rank].count}
        return [f"rank {rank} has never reported" for rank in missing] + describe_behind(now, gone)


def describe_behind(beats: dict[int, Beat], gone: set[int]) -> list[str]:
    """One text for each rank that has gone or stands behind the furthest one.

    Where all are at the same iteration, those are behind that do not wait for others while some do.
    """
    furthest = max((beat.progress for beat in beats.values()), default=(0, 0))
    behind = {rank for rank, beat in beats.items() if beat.progress < furthest}
    if not behind and not gone:
        busy = {rank for rank, beat in beats.items() if beat.doing != WAITING_FOR_RANKS}
        behind = busy if len(busy) < len(beats) else set()
    texts = []
    for rank in sorted(behind | gone):
        beat = beats[rank]
        place = f"iteration {beat.iteration}" + (f", batch {beat.batches} of an evaluation" if beat.batches else "")
        who = f"rank {rank} on host {beat.host}"
        if rank in gone:
            texts.append(f"{who} (process {beat.pid}) has gone; it was at {place}")
        else:
            texts.append(f"{who} has been at {place} for {beat.seconds:.0f} s, {beat.doing} ({beat.line})")
    return texts


def has_died(beat: Beat) -> bool:
    """Whether a process of this machine is no more; others cannot be looked at."""
    if beat.host != socket.gethostname():
        return False
    try:
        os.kill(beat.pid, 0)
        with open(f"/proc/{beat.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # no /proc, or another user's process
        return False


def _connect() -> dist.Store:
    """A connection to the default group's store, for one thread."""
    store = dist.distributed_c10d._get_default_store()
    # Older versions of torch cannot clone; their own lock then lets one thread wait for the other.
    return store.clone() if hasattr(store, "clone") else store


def _key(rank: int) -> str:
    return f"hybrid_dense/heartbeat/{rank}"
