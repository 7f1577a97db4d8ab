"""SIGKILL at random moments of saving, on real processes: the training goes on from a good checkpoint, always."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import fork, start
from small_demo import SMALL
from toy_training import STEPS, Scores, checkpoints, train

from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.hooks import AtomicCheckpointHook
from hybrid_dense.engine.latest import find_damage, find_latest

KILLS = 20
# Of float32: 6 MiB a checkpoint, so that saving takes longer than training.
BALLAST = 1_500_000
OPTIONS = dict(checkpoint=dict(max_keep_ckpts=1, save_best="acc"), ballast=BALLAST)


class EverBetter(Scores):
    def compute_metrics(self, results):
        return dict(acc=time.time() / 1e10)


class Watch:
    """What the process that trains shows of itself in shared memory."""

    def __init__(self):
        self.saving = fork.Value("i", 0)
        self.saved_epoch = fork.Value("i", 0)
        self.seconds = fork.Value("d", 0.1)


def train_watched(work_dir: Path, watch: Watch) -> None:
    save_regular, save_best = (
        AtomicCheckpointHook._save_checkpoint_with_step,
        AtomicCheckpointHook._save_best_checkpoint,
    )

    def watched(save):
        def call(self, runner, *arguments, **named):
            start_time, watch.saving.value = time.perf_counter(), watch.saving.value + 1
            save(self, runner, *arguments, **named)
            watch.saving.value -= 1
            watch.seconds.value = time.perf_counter() - start_time
            if save is save_regular:
                watch.saved_epoch.value = arguments[0]

        return call

    AtomicCheckpointHook._save_checkpoint_with_step = watched(save_regular)
    AtomicCheckpointHook._save_best_checkpoint = watched(save_best)
    train(work_dir, epochs=1000, scores=EverBetter(), resume=True, **OPTIONS)


def wait_for(condition, process, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.0005)


def test_killed_twenty_times_it_always_goes_on_and_nothing_older_is_lost(tmp_path):
    work_dir, log = tmp_path / "run", tmp_path / "log"
    chance, hits, left_behind = random.Random(0), 0, 0
    epoch = 0
    for kill in range(KILLS):
        watch = Watch()
        process = start(train_watched, work_dir, watch, log=log)
        first = epoch + chance.randint(1, 2)  # epochs that are to be saved before the kill
        wait_for(lambda watch=watch, first=first: watch.saved_epoch.value >= first, process, log)
        wait_for(lambda watch=watch: watch.saving.value, process, log)
        time.sleep(chance.uniform(0, 1.5 * watch.seconds.value))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()[-3000:]
        hits += watch.saving.value > 0
        left_behind += bool(list(work_dir.glob(".*")))

        latest = find_latest(work_dir)
        meta = safe_load(latest)["meta"]
        assert meta["epoch"] >= watch.saved_epoch.value, f"kill {kill}: an epoch that was saved is lost"
        assert meta["iter"] == meta["epoch"] * STEPS
        epoch = meta["epoch"]
        visible = list(work_dir.glob("*.pth"))
        assert len([path for path in visible if path.name.startswith("best_")]) >= 1
        for path in visible:
            assert find_damage(path) is None and safe_load(path), f"kill {kill}: {path.name} is not whole"
    print(f"{hits} of {KILLS} kills came during saving, {left_behind} left an unfinished file")
    assert hits >= KILLS // 2 and left_behind >= 1

    resumed = train(work_dir, epoch + 1, scores=EverBetter(), resume=True, **OPTIONS)
    straight = train(tmp_path / "straight", epoch + 1, checkpoint=dict(interval=-1, save_last=False), ballast=BALLAST)
    expected = straight.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    assert not list(work_dir.glob(".*")), "what killed runs left behind is removed"
    assert [name for name in checkpoints(work_dir) if name.startswith("epoch")] == [f"epoch_{epoch + 1}.pth"]


@pytest.mark.slow
def test_a_detector_is_killed_truncated_moved_and_trained_to_the_end(command, tmp_path):
    """The command as a user runs it: every run but the last dies while it writes a checkpoint."""
    config = Path(__file__).parents[2] / "configs/demo.py"
    work_dir = tmp_path / "run"

    def arguments(epochs):
        options = ["--cfg-options", *SMALL, f"train_cfg.max_epochs={epochs}"]
        return ["train", config, "--work-dir", work_dir, "--resume", *options]

    line = [sys.executable, "-m", "hybrid_dense", *map(str, arguments(50))]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while not (list(work_dir.glob("epoch_3.pth")) and list(work_dir.glob(".epoch_*.tmp-save"))):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.001)
        process.kill()
        process.wait()
    latest = find_latest(work_dir)
    os.truncate(latest, latest.stat().st_size // 2)
    work_dir = work_dir.rename(tmp_path / "moved")
    epoch = int(latest.stem.split("_")[1])
    done = command(*arguments(epoch + 1))
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert f"{latest.name} does not match {latest.name}.sha256" in said
    assert f"resumed epoch: {epoch - 1}, iter: {4 * (epoch - 1)}" in said
    assert safe_load(work_dir / f"epoch_{epoch + 1}.pth")["meta"]["iter"] == 4 * (epoch + 1)
