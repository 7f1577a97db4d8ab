"""Trainings that hang: what they wait for is said once, by the process that waits and by the one it waits for."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest
import watched_training as training
from mmengine.hooks import Hook

from hybrid_dense.engine import heartbeat
from hybrid_dense.engine.data_workers import describe_data_workers
from hybrid_dense.engine.heartbeat import WAITING_FOR_RANKS, Beat, describe_behind
from hybrid_dense.engine.hooks import WatchdogHook, watchdog

HOST = re.escape(socket.gethostname())


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)


def hook(seconds=1.0):
    return dict(type="WatchdogHook", seconds=seconds)


def log_of(work_dir):
    return next(work_dir.glob("*/*.log")).read_text()


def test_a_stuck_data_worker_is_named_once(tmp_path):
    image = tmp_path / "odd image.jpg"
    image.touch()
    # The others take long enough for the watchdog to look again before the training is done.
    marks = {"all": {"seconds": 0.1}, "6": {"seconds": 2.5, "opens": str(image)}}
    training.build(tmp_path / "run", epochs=1, marks=marks, workers=1, hooks=[hook()], log_level="INFO").train()
    log = log_of(tmp_path / "run")
    [(seconds, iteration, workers)] = re.findall(
        r"no progress for (\d) s after iteration (\d): waiting for data; data workers: (.*)", log
    )
    assert int(seconds) in (1, 2) and int(iteration) == 3
    assert re.fullmatch(rf"process \d+ sleeping, \d\.\d s of CPU time, reading {image}", workers)
    assert "_try_get_data" in log  # where the main thread stands
    assert re.search(r"going on after [2-5] s", log)


def test_nothing_is_said_of_a_training_that_goes(tmp_path):
    training.build(tmp_path, marks={"all": {"seconds": 0.05}}, hooks=[hook()]).train()
    assert "no progress" not in log_of(tmp_path)
    assert watchdog._heartbeats is None


def test_a_stuck_computation_shows_where(tmp_path):
    training.build(tmp_path, epochs=1, marks={"6": {"forward_seconds": 2}}, hooks=[hook()]).train()
    log = log_of(tmp_path)
    assert re.search(r"no progress for 1 s after iteration 3: computing\n", log)
    assert re.search(r"watched_training\.py\", line \d+, in forward", log)


class SlowSave(Hook):
    """Between two epochs, where checkpoints are saved."""

    def after_train_epoch(self, runner):
        time.sleep(2)


def test_a_hook_that_hangs_between_epochs_is_no_wait_for_data(tmp_path):
    training.build(tmp_path, epochs=1, marks={}, hooks=[SlowSave(), hook()]).train()
    log = log_of(tmp_path)
    assert re.search(r"no progress for 1 s after iteration 8: between two steps\n", log)
    assert re.search(r"test_watchdog\.py\", line \d+, in after_train_epoch", log)


def test_a_long_evaluation_is_no_hang_and_a_stuck_validation_is(tmp_path):
    options = dict(epochs=1, hooks=[hook()])
    training.build(tmp_path / "long", val_marks={}, metric=2.5, **options).train()
    assert "no progress" not in log_of(tmp_path / "long")
    training.build(tmp_path / "stuck", val_marks={"6": {"seconds": 2}}, **options).train()
    assert "after batch 3 of an evaluation: waiting for data; no data workers" in log_of(tmp_path / "stuck")


@pytest.mark.parametrize(
    ("mark", "doing"),
    [
        ("forward_seconds", r"computing \(watched_training\.py:\d+ in forward\)"),
        ("seconds", r"waiting for data \(.*\)"),
    ],
)
def test_the_rank_that_is_stuck_is_named_by_the_others(tmp_path, mark, doing):
    hooks = [hook()]
    ranks = training.start_ranks(tmp_path, epochs=1, hooks=hooks, marks={}, marks_of_rank_1={"7": {mark: 4}})
    (code, output, errors), (other_code, _, other_errors) = [rank.end() for rank in ranks]
    assert (code, other_code) == (0, 0), errors + other_errors
    found = re.search(r"no progress for \d s after iteration 1: waiting for other ranks: (.*)", log_of(tmp_path))
    assert re.fullmatch(rf"rank 1 on host {HOST} has been at iteration 1 for \d s, {doing}", found[1])
    # The stuck one says it too, on its own output, since mmengine logs rank 0 only.
    own = "computing" if mark == "forward_seconds" else "waiting for data"
    assert re.search(rf"hybrid-dense: warning: rank 1: no progress for \d s after iteration 1: {own}", other_errors)


def test_a_rank_that_dies_is_named_in_the_error_of_the_others(tmp_path):
    ranks = training.start_ranks(tmp_path, epochs=50, hooks=[hook(60)], marks={"all": {"seconds": 0.02}})
    for rank in ranks:
        rank.wait_for("step 3")
    time.sleep(0.5)
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[1].end()[0] == -signal.SIGKILL
    code, _, errors = ranks[0].end()
    assert code == 1
    assert "Traceback" not in errors
    assert re.fullmatch(
        rf"hybrid-dense: error: rank 0 lost the others: rank 1 on host {HOST} \(process {ranks[1].pid}\) has gone; it "
        rf"was at iteration \d+ \(.*\)",
        errors.strip().splitlines()[-1],
    )


def test_a_dead_worker_is_called_dead():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    try:
        assert any(text.startswith(f"process {child.pid} dead") for text in describe_data_workers())
    finally:
        child.wait()
    assert not any(text.startswith(f"process {child.pid} ") for text in describe_data_workers())


def beat(rank, iteration, doing="computing", batches=0):
    return Beat(rank, f"host{rank}", 1000 + rank, iteration, batches, doing, "model.py:7 in forward", 312.4, 9)


def test_who_is_behind():
    in_step, waiting = [beat(rank, 812, WAITING_FOR_RANKS) for rank in (0, 1)], beat(2, 811, "waiting for data")
    beats = {one.rank: one for one in [*in_step, waiting]}
    assert describe_behind(beats, set()) == [
        "rank 2 on host host2 has been at iteration 811 for 312 s, waiting for data (model.py:7 in forward)"
    ]
    same = {one.rank: one for one in [*in_step, beat(2, 812)]}
    assert describe_behind(same, set()) == [
        "rank 2 on host host2 has been at iteration 812 for 312 s, computing (model.py:7 in forward)"
    ]
    assert describe_behind(same, {0}) == ["rank 0 on host host0 (process 1000) has gone; it was at iteration 812"]
    assert describe_behind({0: beat(0, 5), 1: beat(1, 5)}, set()) == []
    assert describe_behind({0: beat(0, 5, batches=3), 1: beat(1, 5, batches=2)}, set()) == [
        "rank 1 on host host1 has been at iteration 5, batch 2 of an evaluation for 312 s, computing "
        "(model.py:7 in forward)"
    ]


def test_a_watchdog_without_patience_is_refused():
    with pytest.raises(ValueError, match="seconds=0 would report every iteration"):
        WatchdogHook(seconds=0)
