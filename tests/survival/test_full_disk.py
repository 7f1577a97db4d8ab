"""A disk that is really full: a file system of a few MiB in memory, and real processes that train onto it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import mount_small_disk, start
from toy_training import build, train

from hybrid_dense.engine.checkpoint import load_state_dict
from hybrid_dense.engine.full_disk import stopping_on_full_disk
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped

# Of float32: 4 MiB a checkpoint. The disk has 16.
BALLAST = 2**20
NOT_ALLOWED = 77


def on_small_disk(folder: Path, action, size: str = "16m") -> int:
    """Exit code of ``action(folder)`` in a process for which ``folder`` is a small disk; skips where that cannot be."""

    def run():
        try:
            mount_small_disk(folder, size)
        except OSError as error:
            print(error)
            sys.exit(NOT_ALLOWED)
        action(folder)

    folder.mkdir()
    log = folder.with_suffix(".log")
    process = start(run, log=log)
    process.join(600)
    if process.exitcode == NOT_ALLOWED:
        pytest.skip(f"no small file system of one's own on this machine: {log.read_text().strip()}")
    return process.exitcode


def run_in_process(function, log: Path) -> int:
    process = start(function, log=log)
    process.join()
    return process.exitcode


def test_a_full_disk_ends_the_run_with_a_line_and_with_room_it_goes_on(tmp_path):
    straight = train(tmp_path / "straight", 3, ballast=BALLAST, checkpoint=dict(interval=-1, save_last=False))
    expected = {name: value for name, value in straight.model.state_dict().items() if name.startswith("layer")}
    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"

    def action(disk: Path) -> None:
        work_dir, options = disk / "run", dict(ballast=BALLAST, checkpoint=dict(max_keep_ckpts=1))

        def fill_up_and_train():
            train(work_dir, 1, **options)
            # Room for a checkpoint more, less half of it.
            (disk / "others").write_bytes(bytes(10 * 2**20))
            train(work_dir, 3, resume=True, **options)

        assert run_in_process(fill_up_and_train, first_log) == WRITE_FAILED
        lines = [line for line in first_log.read_text().splitlines() if "disk is full" in line]
        assert len(lines) == 1 and "Traceback" not in first_log.read_text()
        assert all(part in lines[0] for part in ("epoch_2.pth", "about 4.0 MiB needed", "MiB free", "go on with: "))
        free = float(lines[0].partition(" MiB free")[0].split()[-1])
        assert 1 < free <= 2, "counted without the unfinished file"
        assert find_latest(work_dir) == work_dir / "epoch_1.pth" and find_damage(work_dir / "epoch_1.pth") is None
        assert not list(work_dir.glob(".*"))

        (disk / "others").unlink()
        assert run_in_process(lambda: train(work_dir, 3, resume=True, **options), second_log) == 0
        saved = load_state_dict(work_dir / "epoch_3.pth")
        assert all(torch.equal(saved[name], value) for name, value in expected.items())

    code = on_small_disk(tmp_path / "disk", action)
    assert code == 0, (tmp_path / "disk.log").read_text()[-3000:]


def test_a_disk_that_others_fill_up_during_an_epoch_ends_the_run_with_a_line(tmp_path):
    """Then it is a log that finds no room, before any checkpoint does."""

    def action(disk: Path) -> None:
        work_dir = disk
        train(work_dir, 1, images=400)
        runner = build(work_dir, 3, images=400, resume=True)
        block = disk / "others"
        with block.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            with stopping_on_full_disk(work_dir):
                runner.train()
        except TrainingStopped as ended:
            stopped = ended
            assert stopped.code == WRITE_FAILED and f"{work_dir} could" in stopped.message, stopped.message
            assert " 0.0 MiB free" in stopped.message
        else:
            raise AssertionError("it did not end")
        assert "epoch_2" not in stopped.message and 200 <= runner.iter < 390
        block.unlink()
        assert find_latest(work_dir) == work_dir / "epoch_1.pth"
        train(work_dir, 2, images=400, resume=True)

    code = on_small_disk(tmp_path / "disk", action)
    assert code == 0, (tmp_path / "disk.log").read_text()[-3000:]


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_goes_on(tmp_path):
    """`hybrid-dense train` on the demo's detector, its work folder on the small disk."""
    config = Path(__file__).parents[2] / "configs/demo.py"
    small = "scenes.train=8 scenes.val=4 scenes.size=96 train_dataloader.batch_size=2 train_dataloader.num_workers=0 "
    small += "train_dataloader.persistent_workers=False val_dataloader.num_workers=0 train_cfg.val_interval=100 "
    small += "val_dataloader.persistent_workers=False default_hooks.checkpoint.max_keep_ckpts=1 train_cfg.max_epochs=2"

    def action(disk: Path) -> None:
        line = [sys.executable, "-m", "hybrid_dense", "train", str(config), "--work-dir", str(disk / "run")]

        def call(*more):
            command = [*line, *more, "--cfg-options", *small.split()]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYBRID_DENSE_CACHE": str(tmp_path / "cache")}
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        block = disk / "others"
        block.write_bytes(bytes(75 * 2**20))  # a checkpoint has 28 MiB
        done = call()
        assert done.returncode == WRITE_FAILED, done.stderr[-3000:]
        last = done.stderr.splitlines()[-1]
        assert last.startswith("hybrid-dense: ") and "epoch_1.pth" in last and "disk is full" in last, last
        assert "Traceback" not in done.stderr
        block.unlink()
        done = call("--resume")
        assert done.returncode == 0, done.stderr[-3000:]
        assert find_latest(disk / "run") == disk / "run" / "epoch_2.pth"

    code = on_small_disk(tmp_path / "disk", action, "100m")
    assert code == 0, (tmp_path / "disk.log").read_text()[-5000:]
