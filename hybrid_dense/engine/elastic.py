"""torchrun that knows which failures a restart can mend; tools/dist_*.sh start it through tools/elastic.py.

torchrun starts a group again after every failure: a misspelt config is then read four times, and a training that a
signal stopped, its checkpoint written, begins anew. Here a group is started again when a process died or lost the
others, and its exit code is the launcher's own.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError, RendezvousTimeoutError
from torch.distributed.launcher import api

from hybrid_dense.engine.distributed import JOIN_SECONDS, RESTARTED, MissingProcess, wait_for_all

# An exception that nobody caught: a lost connection, the device, a bug. All other codes are decisions of the command.
UNCAUGHT = 1
# A training that stopped on a signal, and a process that the launcher ended because another one failed.
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)


def worth_a_restart(exit_codes: Collection[int]) -> bool:
    """Whether a group whose processes ended with these codes (negative: killed by that signal) is to be started again.

    Not if one of them decided to end, nor if all of them stopped on a signal.
    """
    ended = [code for code in exit_codes if code not in STOPPED]
    return bool(ended) and all(code == UNCAUGHT or code < 0 for code in ended)


def root_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """(rank, failure) of the process that brought the group down, as far as the exit codes tell.

    A decision before a death by signal, that before an exception (often the loss of the dead one), and those before
    the processes that the launcher stopped.
    """

    def order(item):
        rank, failure = item
        code = failure.exitcode
        kinds = (code > 0 and code != UNCAUGHT and code not in STOPPED, code < 0 and code not in STOPPED)
        return (*(not kind for kind in kinds), code in STOPPED, failure.timestamp, rank)

    return min(failures.items(), key=order)


class DecidingAgent(LocalElasticAgent):
    """torchrun's agent that restarts only what is ``worth_a_restart`` and tells processes that they are a restart."""

    _started_before = False

    def _monitor_workers(self, worker_group):
        result = super()._monitor_workers(worker_group)
        codes = [failure.exitcode for failure in result.failures.values()]
        if codes and not worth_a_restart(codes):
            self._remaining_restarts = 0
        return result

    def _start_workers(self, worker_group):
        # torchrun's own count says nothing of a group that was joined anew by a machine which had died.
        os.environ[RESTARTED] = str(int(self._started_before))
        self._started_before = True
        return super()._start_workers(worker_group)

    def _shutdown(self, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        if death_sig is None:
            super()._shutdown(timeout=timeout)
            return
        # torchrun bears a second signal; a third would make it leave the processes behind in the middle of writing.
        # Older versions of torch handle the same signals without saying so.
        for name in os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT").split(","):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
        super()._shutdown(death_sig, timeout)

    def run(self, *arguments):
        try:
            return super().run(*arguments)
        except SignalException as stop:
            processes = [] if self._pcontext is None else self._pcontext.subprocess_handlers.values()
            codes = [handler.proc.poll() for handler in processes]
            if -signal.SIGKILL in codes:
                say(
                    f"processes were killed {self._shutdown_timeout} s after {stop.sigval.name}; a longer "
                    f"SHUTDOWN_TIMEOUT lets them write their checkpoint"
                )
            decided = [code for code in codes if code is not None and code > 0]
            # Through torchrun's own end, which closes the rendezvous: no other machine waits for this one.
            raise SystemExit(max(decided, default=128 + stop.sigval)) from None


def meet_machines(arguments) -> None:
    """Wait until every machine has come to the rendezvous address, and name those that have not."""
    machines, _ = torchrun.parse_min_max_nnodes(arguments.nnodes)
    if machines == 1:
        return
    number = int(os.environ.get("NODE_RANK", 0))
    host, _, port = arguments.rdzv_endpoint.rpartition(":")
    seconds = float(os.environ.get("JOIN_TIMEOUT", JOIN_SECONDS))
    deadline = time.monotonic() + seconds
    try:
        limit = timedelta(seconds=seconds)
        store = dist.TCPStore(host, int(port), is_master=number == 0, multi_tenant=True, timeout=limit)
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise MissingProcess(f"port {port} is taken by another program; set PORT to a free one") from None
        raise MissingProcess(
            f"machine 0 has not come: nobody answers at {arguments.rdzv_endpoint} after {seconds:.0f} s; started there "
            f"with NODE_RANK=0? reachable from here?"
        ) from None
    meeting = f"MASTER_ADDR:PORT {arguments.rdzv_endpoint}, with NNODES={machines} and a NODE_RANK each"
    wait_for_all(store, number, machines, deadline, seconds, lambda other: f"machine {other}", meeting)
    # Kept, for it serves the rendezvous as long as this process lives.
    meet_machines.store = store
    if arguments.local_addr is None:
        arguments.local_addr = address_towards(host, int(port))


def address_towards(host: str, port: int) -> str:
    """The address by which ``host`` sees this machine; its name need not mean anything there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return probe.getsockname()[0]


def say(line: str) -> None:
    print(f"dist_launch: {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """torchrun's arguments; returns the exit code of the process that ended the training, 128 + n after signal n."""
    arguments = torchrun.parse_args(arguments)
    api.LocalElasticAgent = DecidingAgent
    try:
        meet_machines(arguments)
        torchrun.run(arguments)
    except ChildFailedError as error:
        rank, failure = root_cause(error.failures)
        code = failure.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        say(f"rank {rank} {how}; its output says why")
        return code if code > 0 else 128 - code
    except SignalException as error:  # before or after the processes ran
        return 128 + error.sigval
    except RendezvousTimeoutError:
        say("not all machines came back in time; those that are missing have to be started again")
        return UNCAUGHT
    except RendezvousError as error:
        say(f"another machine ended the training; its output says why ({error})")
        return UNCAUGHT
    except MissingProcess as error:
        say(str(error))
        return UNCAUGHT
    return 0
