"""The course of a training out of its logs: time, epochs and figures, however often it was killed."""

import json

import pytest

from hybrid_dense.study.history import read_history


@pytest.fixture
def log(tmp_path):
    """Write the records of one start of a training."""

    def call(start: str, *records: dict, tail: str = ""):
        folder = tmp_path / start / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
        return tmp_path

    return call


def step(number, epoch=None, time=6.0):
    record = dict(loss=1.0, time=time, iter=number, step=number)
    return record if epoch is None else dict(record, epoch=epoch)


def test_minutes_are_those_of_the_steps_and_a_figure_knows_when_it_was(log):
    work_dir = log(
        "20260101_000000",
        *(step(10, 1), step(20, 1), dict(mIoU=30.0, time=99.0, step=1), step(30, 2), step(40, 2, time=12.0)),
        dict(mIoU=50.0, aAcc=80.0, step=2),
        dict(mIoU=40.0),  # a test has no place in the course
    )
    history = read_history(work_dir, "mIoU")
    assert history.curve == [(1, 2.0, 30.0), (2, 5.0, 50.0)]
    assert (history.minutes, history.epochs, history.iterations, history.unit) == (5.0, 2, 40, "epoch")


def test_what_a_resumed_training_did_anew_counts_once(log):
    log("20260101_000000", step(10, 1), dict(mIoU=30.0, step=1), step(20, 2), step(25, 3), dict(mIoU=1.0, step=3))
    work_dir = log("20260101_000100", step(20, 2, time=12.0), dict(mIoU=50.0, step=2), tail='{"loss": 1, "ti')
    history = read_history(work_dir, "mIoU")
    assert history.curve == [(1, 1.0, 30.0), (2, 3.0, 50.0)]
    assert (history.minutes, history.epochs, history.iterations) == (3.0, 2, 20)


def test_a_start_that_logged_nothing_takes_nothing_away(log):
    log("20260101_000000", step(10, 1))
    assert read_history(log("20260101_000100"), "mIoU").minutes == 1.0


def test_a_training_by_iterations_counts_them(log):
    history = read_history(log("20260101_000000", step(50), dict(mIoU=30.0, step=50)), "mIoU")
    assert (history.curve, history.epochs, history.unit) == ([(50, 5.0, 30.0)], 0, "iteration")


def test_an_empty_folder_has_no_history(tmp_path):
    history = read_history(tmp_path / "none", "mIoU")
    assert (history.curve, history.minutes, history.iterations) == ([], 0, 0)
