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


def open_state(run: Run, work_dir: Path, begun: dict) -> dict:
    """What is known about a run's training from its start on; ``begun`` is written where it has not begun.

    Raises:
        ValueError: it was begun with another config.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    file, fingerprint = work_dir / STATE, run.fingerprint()
    if not file.is_file():
        write_text(file, json.dumps(dict(begun, fingerprint=fingerprint, trained=False), indent=2) + "\n")
    state = read_json(file)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"{work_dir} was begun with another config than {run.config} says now; remove it to begin anew"
        )
    return state


def note_trained(work_dir: Path, state: dict) -> None:
    state["trained"] = True
    write_text(work_dir / STATE, json.dumps(state, indent=2) + "\n")


def run_process(
    command: Sequence[str],
    console: Path,
    lock: int,
    tick: Callable[[], None] = lambda: None,
    deadline: float = float("inf"),
    pause: float = 1.0,
) -> int:
    """Run a command to its end and return its exit code, negative for a signal.

    SIGINT and SIGTERM are handed on to it, once, and so is the end of its time as SIGTERM: a training saves then and
    ends. It is told the same if this process is killed.

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
    told = False

    def tell(number: int, _frame: object = None) -> None:
        nonlocal told
        told = True
        child.send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(pause)
            tick()
            if time.monotonic() > deadline and not told:
                tell(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.terminate()


def last_words(console: Path, lines: int = 3) -> str:
    """The last lines of a console file, as one."""
    if not console.is_file():
        return ""
    with console.open("rb") as file:
        file.seek(max(0, os.path.getsize(console) - 4000))
        return " | ".join(file.read().decode(errors="replace").strip().splitlines()[-lines:])
