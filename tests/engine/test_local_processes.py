"""Processes of one command on this machine: what they are told, how they end, what reaches them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from hybrid_dense.engine import local_processes
from hybrid_dense.engine.local_processes import run_in_processes, torch_computes_on_gpus

PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
TELL = f"""
import os, pathlib, sys
names = {PLACES}
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(" ".join(os.environ[name] for name in names))
pathlib.Path(sys.argv[1], "port" + os.environ["RANK"]).write_text(os.environ["MASTER_PORT"])
"""
# Rank 1 ends with the code that it is given, the others wait until somebody asks them to stop.
END = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    with open(os.path.join(sys.argv[1], "asked" + os.environ["RANK"]), "a") as file:
        file.write(f"{number} ")
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, stop)
pathlib.Path(sys.argv[1], "ready" + os.environ["RANK"]).touch()
if os.environ["RANK"] == "1" and sys.argv[2] != "wait":
    while not pathlib.Path(sys.argv[1], "ready0").exists():
        time.sleep(0.01)
    code = int(sys.argv[2])
    os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
time.sleep(60)
"""


def python(code, *arguments) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_each_process_knows_its_place_and_where_all_meet(tmp_path):
    assert run_in_processes(python(TELL, tmp_path), 3) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"{rank} {rank} 3 3 127.0.0.1 1" for rank in range(3)
    ]
    ports = {(tmp_path / f"port{rank}").read_text() for rank in range(3)}
    assert len(ports) == 1 and int(ports.pop()) > 1023


@pytest.mark.parametrize(("ended", "code"), [(2, 2), (74, 74), (-signal.SIGKILL, 137)])
def test_one_that_fails_stops_the_others_and_its_code_is_the_answer(tmp_path, ended, code):
    start = time.monotonic()
    assert run_in_processes(python(END, tmp_path, ended), 2) == code
    assert (tmp_path / "asked0").read_text().split() == [str(int(signal.SIGTERM))]
    assert time.monotonic() - start < local_processes.STOP_SECONDS


def test_one_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(local_processes, "STOP_SECONDS", 0.2)
    deaf = END.replace("sys.exit(128 + number)", "pass")
    assert run_in_processes(python(deaf, tmp_path, 3), 2) == 3
    assert (tmp_path / "asked0").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_reaches_every_process_once_and_handlers_are_put_back(tmp_path, number):
    before = signal.getsignal(number)

    def send():
        while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert run_in_processes(python(END, tmp_path, "wait"), 2) == 128 + number
    thread.join()
    assert [(tmp_path / f"asked{rank}").read_text().split() for rank in range(2)] == [[str(int(number))]] * 2
    assert signal.getsignal(number) is before


def test_what_torch_computes_on_is_read_off_without_loading_it():
    assert torch_computes_on_gpus() == bool(torch.version.cuda or torch.version.hip or torch.version.xpu)
    code = (
        "import sys; sys.argv[0] = 'hybrid-dense'; "
        "from hybrid_dense.engine.local_processes import torch_computes_on_gpus; "
        "torch_computes_on_gpus(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run(python(code)).returncode == 0
