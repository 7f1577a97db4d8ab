"""The launcher: restarts what a restart can mend, ends with the program's exit code, lets it write its checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid_dense.engine.elastic import address_towards, root_cause, worth_a_restart

PROJECT = Path(__file__).parents[2]
ALONE = "--nnodes=1 --nproc-per-node=2 --rdzv-endpoint=127.0.0.1:0"


@pytest.mark.parametrize(
    ("exit_codes", "expected"),
    [
        ([-9, 1], True),  # killed, and one that lost it
        ([-9, -15], True),  # killed, and one that the launcher ended
        ([-9, 143], True),  # the same, with a checkpoint
        ([1], True),
        ([143, 143], False),  # all stopped on a signal
        ([-15], False),
        ([2, -15], False),  # a mistake of the user
        ([1, 2], False),
        ([3, 3], False),  # decided by a hook
    ],
)
def test_only_deaths_and_uncaught_exceptions_are_worth_a_restart(exit_codes, expected):
    assert worth_a_restart(exit_codes) is expected


@pytest.mark.parametrize(
    ("exit_codes", "cause"), [([-15, 2], 1), ([1, -9], 1), ([-15, 1], 1), ([1, 1], 0), ([143, -9, 1], 1)]
)
def test_the_root_cause_is_not_who_was_taken_along(exit_codes, cause):
    failures = {rank: SimpleNamespace(exitcode=code, timestamp=7) for rank, code in enumerate(exit_codes)}
    assert root_cause(failures)[0] == cause


def test_a_machine_knows_by_which_address_it_is_seen():
    assert address_towards("127.0.0.1", 29500) == "127.0.0.1"


@pytest.fixture
def launch(tmp_path):
    """Start two ranks of group_program.py; returns the launcher's process."""
    started = []

    def start(program: str, keeps_store: bool = False, meeting: str = ALONE) -> subprocess.Popen:
        options = (
            f"--max-restarts=2 --shutdown-timeout=20 --rdzv-backend=c10d --rdzv-id=test --local-addr=127.0.0.1 "
            f"--signals-to-handle=SIGTERM,SIGUSR1 {meeting}"
        )
        environment = dict(PROGRAM=program, FOLDER=str(tmp_path))
        environment["NODE_RANK"] = str(int("is_host=0" in meeting))
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = str(int(not keeps_store))
        scripts = PROJECT / "tools/elastic.py", PROJECT / "tests/distributed/group_program.py"
        command = [sys.executable, scripts[0], *options.split(), scripts[1]]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


# torchrun's own choice is a store that outlives a restart, and with it the addresses of the dead.
@pytest.mark.parametrize("keeps_store", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_rank_restarts_the_group_which_knows_it(launch, tmp_path, keeps_store):
    process = launch("killed once", keeps_store=keeps_store)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors[-3000:]
    assert [(tmp_path / f"done{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    assert (tmp_path / "starts1").read_text() == "xx"


@pytest.mark.slow
def test_a_machine_that_dies_can_be_started_again(launch, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = f"--nnodes=2 --nproc-per-node=1 --rdzv-endpoint=127.0.0.1:{port} --rdzv-conf=join_timeout=100,is_host="
    first, second = (launch("until restarted", meeting=f"{pair}{is_host}") for is_host in (1, 0))
    numbers = [tmp_path / "pid0", tmp_path / "pid1"]
    while not all(path.exists() and path.read_text() for path in numbers):
        assert first.poll() is None and second.poll() is None
        time.sleep(0.1)
    # The launcher first, so that it does not start its rank again; which of the ranks is its is for torchrun to say.
    ranks = [int(path.read_text()) for path in numbers]
    (own,) = [pid for pid in ranks if Path(f"/proc/{pid}/stat").read_text().split()[3] == str(second.pid)]
    for pid in (second.pid, own):
        os.kill(pid, signal.SIGKILL)
    second.wait()
    time.sleep(3)
    again = launch("until restarted", meeting=f"{pair}0")
    for process in (first, again):
        errors = process.communicate(timeout=200)[1]
        assert process.returncode == 0, errors[-3000:]
    # The new launcher has never restarted anything; its rank learns it from the other.
    assert [(tmp_path / f"done{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


@pytest.mark.slow
def test_a_mistake_is_made_once_and_its_exit_code_is_the_launchers(launch, tmp_path):
    process = launch("mistake")
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert (tmp_path / "starts0").read_text() == "x"
    assert errors.splitlines()[-1] == "dist_launch: rank 0 ended with exit code 2; its output says why"


def test_a_signalled_group_has_time_to_save_and_is_not_started_again(launch, tmp_path):
    process = launch("stop")
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    for _ in range(3):  # an impatient scheduler must not make it leave the ranks behind
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    # Not communicate, which would wait for ranks that were left behind.
    assert process.wait(60) == 143
    assert all((tmp_path / f"saved{rank}").exists() for rank in (0, 1))
    assert (tmp_path / "starts0").read_text() == "x"
