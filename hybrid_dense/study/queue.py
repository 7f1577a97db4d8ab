"""Run trainings one after another, each a process of its own, so that any of them may be killed at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hybrid_dense.engine.files import write_text
from hybrid_dense.engine.local_processes import end_with_parent
from hybrid_dense.engine.stop import INTERRUPTED, TERMINATED
from hybrid_dense.study.plan import Run
from hybrid_dense.study.stored import read_json

STATE = "study.json"
CONSOLE = "console.log"
STOPPED = (INTERRUPTED, TERMINATED, -signal.SIGINT, -signal.SIGTERM)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, which the trainings inherit: a killed study's last training has it until it ends.

    Raises:
        ValueError: another study works in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"a study or its last training still runs in {folder}; wait for its end") from None
        yield file.fileno()


def read_state(run: Run, work_dir: Path) -> dict:
    """What is known about a run's training: its fingerprint, whether it has ended, and what was noted at its starts.

    Raises:
        ValueError: it was begun with another config.
    """
    file, fingerprint = work_dir / STATE, run.fingerprint()
    state = read_json(file) if file.is_file() else dict(fingerprint=fingerprint, trained=False)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{work_dir} was begun with another config than {run.config} says now; remove it to begin anew"
        )
    return state


def note_start(work_dir: Path, state: dict, begun: dict[str, str]) -> None:
    """Add to the state what a start notes: commit, machine; where starts differ, all of them."""
    for key, value in begun.items():
        known = state.get(key)
        state[key] = value if known is None else known if value in known.split("; ") else f"{known}; {value}"
    _write_state(work_dir, state)


def note_trained(work_dir: Path, state: dict) -> None:
    state["trained"] = True
    _write_state(work_dir, state)


def _write_state(work_dir: Path, state: dict) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    write_text(work_dir / STATE, json.dumps(state, indent=2) + "\n")


def run_process(
    command: Sequence[str],
    console: Path,
    lock: int,
    tick: Callable[[], None] = lambda: None,
    deadline: float = float("inf"),
    pause: float = 1.0,
) -> tuple[int, int | None]:
    """Run a command to its end; returns its exit code, negative for a signal, and the signal that came meanwhile.

    SIGINT and SIGTERM are handed on to it, and so is the end of its time, as SIGTERM: a training saves then and ends.
    It is told the same if this process is killed.

    Args:
        command: the program and its arguments.
        console: file that its output is added to.
        lock: from `only_one`.
        tick: called every ``pause`` seconds.
        deadline: `time.monotonic` at which it is stopped.
        pause: seconds.
    """
    with console.open("a") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it once, from here
            pass_fds=(lock,),
            preexec_fn=end_with_parent,
        )
    told = None

    def tell(number: int, _frame: object = None) -> None:
        nonlocal told
        told = number
        child.send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(pause), told
            tick()
            if time.monotonic() > deadline and not told:
                tell(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()


def last_words(console: Path) -> str:
    """The last line of a console file."""
    if not console.is_file():
        return ""
    with console.open("rb") as file:
        file.seek(max(0, os.path.getsize(console) - 4000))
        return (file.read().decode(errors="replace").strip().splitlines() or [""])[-1]
