"""How long a program takes until it answers, measured from outside in processes of their own."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_SECONDS = 0.02
STOP_SECONDS = 60.0


def time_command(command: Sequence[str], repeat: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds from launch to exit, ``repeat`` times, after one run that is not counted: files are in memory then.

    Raises:
        ValueError: it failed; the message ends with the last line it printed.
    """
    seconds = []
    for _ in range(repeat + 1):
        start = clock()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds.append(clock() - start)
        if done.returncode != 0:
            raise ValueError(f"{' '.join(command)} failed: {last_line(done.stderr)}")
    return seconds[1:]


def time_until(
    command: Sequence[str], happened: Callable[[], bool], limit: float, log: Path, clock=time.perf_counter
) -> float:
    """Seconds from the launch of a command until ``happened()``; then the command is asked to stop.

    Raises:
        ValueError: it ended without, or ``limit`` seconds passed.
    """
    start = clock()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while not happened():
            if process.poll() is not None:
                raise ValueError(f"{' '.join(command)} ended before: {last_line(log.read_text())}")
            if clock() - start > limit:
                raise ValueError(f"{' '.join(command)} took more than {limit:.0f} s")
            time.sleep(POLL_SECONDS)
        return clock() - start
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    """Ask a process to end, which a launcher passes on to its workers; after a while, insist."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def summary(seconds: Sequence[float]) -> dict:
    """Plain values for JSON."""
    return dict(seconds=list(seconds), median=statistics.median(seconds), minimum=min(seconds))
