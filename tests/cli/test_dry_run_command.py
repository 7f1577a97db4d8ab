"""`train --dry-run` as a user runs it: figures for the whole schedule, and nothing left behind."""

import os
import re
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from small_demo import DEMO, SMALL

from hybrid_dense.cli import CommandError, main
from hybrid_dense.cli import dry_run as command_file
from hybrid_dense.cli.dry_run import dry_run, leaving_on_signals, report, temporary_folder
from hybrid_dense.cli.durations import duration
from hybrid_dense.engine.dry_run import DryRun
from hybrid_dense.engine.stop import TrainingStopped

BY_ITERATION = f"""\
_base_ = "{DEMO}"
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=600, val_interval=200)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50)]
"""


@pytest.fixture
def places(tmp_path):
    """A work folder with something in it, and an empty one for temporary files."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/epoch_9.pth").write_text("mine")
    (tmp_path / "temporary").mkdir()
    return tmp_path / "work", tmp_path / "temporary"


def check_nothing_is_left(work: Path, temporary: Path) -> None:
    assert [(path.name, path.read_text()) for path in work.iterdir()] == [("epoch_9.pth", "mine")]
    assert not [path.name for path in temporary.iterdir() if not path.name.startswith("torch")]


def words(*options) -> list:
    return ["--dry-run", *options, "--cfg-options", *SMALL]


def test_the_whole_schedule_is_estimated_and_nothing_is_left(command, places):
    work, temporary = places
    done = command(
        "train", DEMO, "--work-dir", work, *words("--ema"), "train_cfg.max_epochs=30", "train_cfg.val_interval=10",
        CUDA_VISIBLE_DEVICES="", TMPDIR=str(temporary),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(re.findall(r"^  (\w+) +(.*)", done.stdout, flags=re.MULTILINE))
    assert lines["course"] == "30 epochs of 4 steps, AdamW"
    assert lines["taken"] == "20 iterations, 5 times over the 4 batches that there are"
    assert re.fullmatch(r"[\d.]+ s \(median of 15\), \d+% of it waiting for data", lines["iteration"])
    assert re.fullmatch(r"\d\.\d\d GiB at its peak, resident in a process, .*", lines["memory"])
    assert lines["schedule"].startswith("30 epochs of 4 iterations: ")
    assert re.fullmatch(r"3 × \d batches: .*, estimated from \d of them", lines["validation"])
    assert lines["whole"].startswith("about ")
    check_nothing_is_left(work, temporary)


@pytest.mark.slow
def test_two_processes_and_a_schedule_of_iterations(command, places, tmp_path):
    work, temporary = places
    (tmp_path / "steps.py").write_text(BY_ITERATION)
    options = [word for word in words() if "val_interval" not in word]
    done = command(
        "tools/dist_train.sh", tmp_path / "steps.py", 2, "--work-dir", work, *options,
        CUDA_VISIBLE_DEVICES="", TMPDIR=str(temporary),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("dry run: at most 20 iterations; nothing is saved") == 1
    assert re.search(r"schedule +600 iterations: ", done.stdout)
    assert re.search(r"validation +3 × \d batches", done.stdout)
    check_nothing_is_left(work, temporary)


def test_two_looks_at_once_are_refused(capsys):
    assert main(["train", str(DEMO), "--dry-run", "--find-lr"]) == 2
    assert capsys.readouterr().err == (
        "hybrid-dense: error: --dry-run and --find-lr are two looks at a training; take one after the other\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name)
def test_a_terminated_dry_run_clears_its_folder_and_all_temporary_files(number):
    at_start = signal.signal(number, signal.SIG_DFL)  # whatever the tests themselves were started under
    try:
        before = tempfile.gettempdir()
        with pytest.raises(TrainingStopped) as stopped, leaving_on_signals(), temporary_folder() as folder:
            assert Path(tempfile.mkdtemp()).parent == folder  # as a data worker does
            os.kill(os.getpid(), number)
        assert stopped.value.code == 143
        assert not folder.exists() and tempfile.gettempdir() == before
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, at_start)


def test_under_nohup_it_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with leaving_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("there", [True, False], ids=["checkpoint", "nothing"])
def test_resume_in_the_config_is_of_the_work_folder_and_not_of_the_temporary_one(tmp_path, monkeypatch, there):
    class Built(Exception):
        """The config is all that is looked at."""

    def build(cfg, splits):
        raise Built(cfg.work_dir, cfg.resume)

    monkeypatch.setattr(command_file, "build_runner", build)
    if there:
        torch.save(dict(meta=dict(iter=4), message_hub={}, state_dict={}), tmp_path / "epoch_1.pth")
        (tmp_path / "last_checkpoint").write_text("epoch_1.pth")
    with pytest.raises(Built) as built:
        dry_run(Config(dict(work_dir=str(tmp_path), resume=True, default_hooks={}, custom_hooks=[])))
    work_dir, resume = built.value.args
    assert work_dir != str(tmp_path) and resume == (str(tmp_path / "epoch_1.pth") if there else False)


def test_a_training_that_does_not_fit_is_one_line(tmp_path, monkeypatch):
    def too_large(runner):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(command_file, "build_runner", lambda cfg, splits: SimpleNamespace(register_hook=id))
    monkeypatch.setattr(command_file, "take_first_iterations", too_large)
    with pytest.raises(CommandError, match=r"try a smaller batch_size, .* or --auto-batch \(CUDA out of memory\)$"):
        dry_run(Config(dict(work_dir=str(tmp_path), default_hooks={}, custom_hooks=[])))


def runner_of(length: int, batches: int = 100) -> SimpleNamespace:
    return SimpleNamespace(max_iters=length, train_loop=None, train_dataloader=range(batches))


def test_of_several_processes_the_slowest_and_the_fullest_count():
    quick = DryRun((1.0,) * 20, (0.0,) * 20, (), 2**30, 1000, 0, 0)
    waiting = DryRun((0.5,) * 20, (0.5,) * 20, (), 2**31, 1000, 0, 0)
    text = report(runner_of(1000), [quick, waiting])
    assert "1 s (median of 15), 50% of it waiting for data" in text
    assert "2.00 GiB" in text and "1000 iterations: 16 min 40 s" in text
    assert "validation" not in text


def test_validations_are_part_of_the_whole():
    run = DryRun((1.0,) * 20, (0.0,) * 20, (2.0,) * 10, 2**30, 1000, 3, 50)
    text = report(runner_of(1000), [run])
    assert "3 × 50 batches: 5 min 00 s, estimated from 8 of them" in text
    assert "about 21 min 40 s; " in text


def test_what_was_cut_short_is_said():
    run = DryRun((1.0,) * 3, (0.0,) * 3, (), 2**30, 3, 0, 0)
    text = report(runner_of(50), [run])
    assert "taken      3 iterations; the schedule has no more" in text
    assert "3 iterations left of 50: 3.0 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.24, "8.2 s"),
        (59.7, "1 min 00 s"),
        (3599.8, "1 h 00 min"),
        (19_230, "5 h 20 min"),
        (47.9 * 3600, "2 d 00 h"),
        (52 * 3600, "2 d 04 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
