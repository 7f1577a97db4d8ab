"""Run one command in several processes of this machine, without loading torch for it.

torchrun does the same for any number of machines and restarts what has failed; it loads torch once more before any of
the processes begins.

As a program: ``python local_processes.py 2 COMMAND …``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LOOK_SECONDS = 0.05
# As long as torchrun waits: enough to write a checkpoint.
STOP_SECONDS = 30.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def torch_computes_on_gpus() -> bool:
    """Whether this build of torch knows any kind of GPU; it is not loaded for the answer."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return False
    version = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    return any(version.get(kind) for kind in ("cuda", "hip", "xpu"))


def run_in_processes(command: Sequence[str], count: int) -> int:
    """Run ``command`` in ``count`` single-threaded processes that torch.distributed can join; returns the exit code.

    It is that of the first process that fails: the others are then asked to stop (SIGTERM) and killed if they are still
    there after ``STOP_SECONDS``. SIGINT, SIGTERM and SIGUSR1 are passed on to all of them; they decide what to do. They
    get SIGTERM if this process is killed, and keep what it has inherited open until they end, such as a lock.
    """
    processes: list[subprocess.Popen] = []
    signals: list[int] = []

    def pass_on(number: int, frame) -> None:
        signals.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in passed}
    try:
        address = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), WORLD_SIZE=str(count))
        for rank in range(count):
            place = dict(RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
            environment = {**os.environ, **address, **place, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            # In sessions of their own: a Ctrl-C reaches them once, from here, and not from the terminal as well.
            process = subprocess.Popen(
                command, env=environment, start_new_session=True, close_fds=False, preexec_fn=end_with_parent
            )
            missed = signals[-1:]  # while it was being started
            processes.append(process)
            for number in missed:
                process.send_signal(number)
        return _wait(processes)
    finally:
        # Who has been asked already, and is writing a checkpoint, is not asked again.
        _stop(processes, ask=not signals)
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Let this process get SIGTERM when its parent ends, however that happens; for ``preexec_fn``. Linux has it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """The exit code of the first process that fails (128 + n after signal n), or 0 once all are done."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), 0)
        if failed or None not in codes:
            return failed if failed >= 0 else 128 - failed
        time.sleep(_LOOK_SECONDS)


def _stop(processes: Sequence[subprocess.Popen], ask: bool) -> None:
    for process in processes:
        if ask and process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(run_in_processes(sys.argv[2:], int(sys.argv[1])))
