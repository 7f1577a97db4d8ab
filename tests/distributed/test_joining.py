"""Who does not come is named, whether it is a rank or a whole machine."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from hybrid_dense.engine.distributed import MissingProcess, no_restart_for_mistakes, wait_for_all

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "configs/demo.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(name, index: int, count: int, store: dist.Store, seconds: float) -> None:
    import time

    wait_for_all(store, index, count, time.monotonic() + seconds, seconds, name, "here")


def test_those_who_wait_name_those_who_have_not_come():
    store, messages = dist.HashStore(), {}

    def come(rank: int) -> None:
        try:
            join(lambda other: f"rank {other}", rank, 4, store, 0.5)
        except MissingProcess as error:
            messages[rank] = str(error)

    ranks = [threading.Thread(target=come, args=(rank,)) for rank in (0, 2)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    host = socket.gethostname()
    here = f"rank 0 on {host}, rank 2 on {host}"
    expected = f"rank 1, rank 3 of 4 have not come after 0 s (here: {here}); started? all must meet at here"
    assert messages == {0: expected, 2: expected}


def test_all_go_on_when_the_last_has_come_and_one_that_comes_twice_counts_once():
    store = dist.HashStore()
    ranks = [threading.Thread(target=join, args=(str, rank, 3, store, 20), daemon=True) for rank in (0, 0, 1)]
    for thread in ranks:
        thread.start()
    ranks[0].join(1)
    assert all(thread.is_alive() for thread in ranks)
    join(str, 2, 3, store, 20)
    for thread in ranks:
        thread.join(20)
    assert not any(thread.is_alive() for thread in ranks)


def test_train_names_the_rank_that_is_missing(command, tmp_path):
    environment = dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    options = ["--work-dir", tmp_path, "--cfg-options", "scenes.train=2", "scenes.val=2", "+env_cfg.dist_cfg.timeout=2"]
    done = command("train", DEMO, "--launcher", "pytorch", *options, CUDA_VISIBLE_DEVICES="", **environment)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("hybrid-dense: error:")]
    assert len(errors) == 1, done.stderr[-2000:]
    assert re.search(r"rank 1 of 2 has not come after 2 s \(here: rank 0 on \S+\); .* at 127\.0\.0\.1:\d+", errors[0])


@pytest.mark.slow
def test_the_launcher_names_the_machine_that_is_missing():
    port = free_port()
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "JOIN_TIMEOUT": "2"}
    environment.update(NNODES="2", NODE_RANK="0", MASTER_ADDR="127.0.0.1", PORT=str(port))
    done = subprocess.run(
        [PROJECT / "tools/dist_train.sh", DEMO, "1"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.match(r"dist_launch: machine 1 of 2 has not come after 2 s \(here: machine 0 on \S+\)", last), done.stderr
    assert f"127.0.0.1:{port}, with NNODES=2" in last


def test_several_machines_need_an_address_that_all_know():
    environment = {key: value for key, value in os.environ.items() if key != "MASTER_ADDR"}
    environment.update(NNODES="2", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(
        [PROJECT / "tools/dist_train.sh", DEMO, "1"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "MASTER_ADDR: is the address of machine 0, the same on all 2 machines" in done.stderr


def test_a_mistake_in_code_ends_for_good_and_what_a_restart_can_mend_passes(capsys, monkeypatch):
    with pytest.raises(KeyError), no_restart_for_mistakes():  # alone, nobody would start it again
        raise KeyError("bboxes")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(SystemExit) as ended, no_restart_for_mistakes():
        raise KeyError("bboxes")
    assert ended.value.code == 2
    assert "KeyError: 'bboxes'" in capsys.readouterr().err
    misspelt = TypeError("RPNHead.__init__() got an unexpected keyword argument 'foo'")
    for error in (RuntimeError(), OSError(), ValueError(), MemoryError(), misspelt):
        with pytest.raises(type(error)), no_restart_for_mistakes():
            raise error
