"""Join the other processes of a training, and say who is missing.

torch's own start waits in silence and then names nobody. Here every process first writes its rank and host into the
rendezvous store, so that those who wait can name those who have not come.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from hybrid_dense.engine.stop import WRONG_INPUT, is_misspelt

# How long to wait for the others, in seconds, where nobody says otherwise.
JOIN_SECONDS = 600.0
_LOOK_SECONDS, _NOTICE_SECONDS = 0.2, 60.0
# What says that this process belongs to a training which was under way before: our own launcher, torchrun, Slurm.
RESTARTED = "HYBRID_DENSE_RESTARTED"
_RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


class MissingProcess(TimeoutError):
    """Some processes of the group have not come in time; the message names them and where the others are."""


def join_group(backend: str, seconds: float | None = None) -> bool:
    """Initialise the default process group from the launcher's environment; returns whether this is a restart.

    Args:
        backend: "nccl" or "gloo".
        seconds: how long to wait for the others (default: ``JOIN_SECONDS``), and for every collective call thereafter
            (default: torch's, 10 minutes over nccl and 30 over gloo).

    The answer is the same in all processes: True if any of them belongs to a training that was under way before.

    Raises:
        MissingProcess: the others have not come; one line names them.
    """
    waiting = JOIN_SECONDS if seconds is None else float(seconds)
    deadline = time.monotonic() + waiting
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    address = f"{host}:{port}"
    # The first rank keeps the store unless torchrun does. torch's own "env://" would wait for the others in here.
    keeps = rank == 0 and not _launcher_keeps_store()
    limit = timedelta(seconds=waiting)
    try:
        store = dist.TCPStore(host, port, is_master=keeps, timeout=limit, wait_for_workers=False, multi_tenant=True)
    except dist.DistError as error:
        raise MissingProcess(_no_store(address, waiting, error)) from None
    store = dist.PrefixStore(f"hybrid_dense/{_attempt()}", store)

    def where(other: int) -> str:
        return f"rank {other}"

    try:
        store.add("restarted", int(_belongs_to_a_restart()))
        wait_for_all(store, rank, world_size, deadline, waiting, where, f"{address}, with WORLD_SIZE {world_size}")
        restarted = store.add("restarted", 0) > 0
        limit = None if seconds is None else limit
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    except dist.DistNetworkError:
        raise MissingProcess(f"the process at {address} went away while rank {rank} joined; see its output") from None
    atexit.register(_leave_group)
    return restarted


def _leave_group() -> None:
    """Part from the others."""
    # After an exception the others may be gone, and parting would wait for them.
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End a process that has been in a group, with this exit code, as Python's own processes of a pool end.

    A thread of gloo that is late to drop a tensor asks for an interpreter that takes itself down, and aborts a process
    that has done its work. So everything is closed and written as at any end, and the interpreter is left standing.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for_all(
    store: dist.Store,
    index: int,
    count: int,
    deadline: float,
    seconds: float,
    name: Callable[[int], str],
    meeting: str,
) -> None:
    """Write down that member ``index`` has come and wait until all ``count`` have.

    Args:
        deadline: on the clock of ``time.monotonic``; ``seconds`` is what the message calls it.
        name: what a member is called.
        meeting: where they meet, for the message.

    Raises:
        MissingProcess: names who has not come, and the hosts of those who have.
    """
    begun = noticed = time.monotonic()
    again = store.check([f"came/{index}"])
    store.set(f"came/{index}", socket.gethostname())
    if not again and store.add("count", 1) == count:
        store.set("complete", "")
    while not store.check(["complete"]):
        now = time.monotonic()
        if now > deadline:
            raise MissingProcess(_who_is_missing(store, count, f"after {seconds:.0f} s", name, meeting))
        if index == 0 and now - noticed > _NOTICE_SECONDS:
            noticed = now
            print(_who_is_missing(store, count, f"yet, {now - begun:.0f} s", name, meeting), file=sys.stderr)
        time.sleep(_LOOK_SECONDS)


def _who_is_missing(store: dist.Store, count: int, when: str, name: Callable[[int], str], meeting: str) -> str:
    came = {index: store.get(f"came/{index}").decode() for index in range(count) if store.check([f"came/{index}"])}
    missing = [name(index) for index in range(count) if index not in came]
    present = [f"{name(index)} on {host}" for index, host in came.items()]
    absent = f"{_some(missing)} of {count} {'has' if len(missing) == 1 else 'have'} not come {when}"
    return f"{absent} (here: {_some(present)}); started? all must meet at {meeting}"


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _no_store(address: str, seconds: float, error: Exception) -> str:
    if "EADDRINUSE" in str(error):
        return f"{address} is taken by another program; start again, under tools/dist_*.sh with PORT set to a free one"
    return f"rank 0 has not come: nobody answers at {address} after {seconds:.0f} s; started? reachable from here?"


def _launcher_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _attempt() -> str:
    """A name of this start within its store.

    torchrun can keep one store over restarts, and torch 2.13 then finds the addresses of processes that are dead.
    """
    return os.environ["TORCHELASTIC_RESTART_COUNT"] if _launcher_keeps_store() else "0"


def _belongs_to_a_restart() -> bool:
    if RESTARTED in os.environ:
        return os.environ[RESTARTED] == "1"
    return any(int(os.environ.get(name, 0)) > 0 for name in _RESTART_COUNTS)


@contextmanager
def no_restart_for_mistakes() -> Iterator[None]:
    """End a process of a group for good on an exception that would come again, such as KeyError.

    What a restart can mend comes as RuntimeError (lost connections, the device), MemoryError or a signal, and passes.
    So does what the commands turn into one line and ``WRONG_INPUT`` themselves, and all where nobody restarts.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ValueError, OSError):
        raise
    except Exception as error:
        if not dist.is_initialized() or is_misspelt(error):
            raise
        traceback.print_exc()
        raise SystemExit(WRONG_INPUT) from None
