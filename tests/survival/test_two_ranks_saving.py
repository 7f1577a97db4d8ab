"""Two processes over gloo: one writes, and both end well or neither goes ahead."""

import errno
import functools
import os
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from processes import start
from toy_training import STEPS, Scores, build, checkpoints, train

from hybrid_dense.engine import files
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.hooks import AtomicCheckpointHook, BroadcastBuffersHook
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped


def on_two_ranks(tmp_path: Path, action) -> list[int]:
    """Exit codes of ``action(rank)`` in two processes of one group; what they print is in rank0.log and rank1.log."""

    def run(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        store = torch.distributed.FileStore(str(tmp_path / "store"), 2)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        action(rank)

    processes = [start(run, rank, log=tmp_path / f"rank{rank}.log") for rank in range(2)]
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


WRAPPED = dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))
DISTRIBUTED = dict(launcher="pytorch", cfg=WRAPPED)


class StopHere(Hook):
    """Save in the middle of the epoch and end, as on a signal."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0:
            hook = next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))
            path = hook.save_now(runner)
            assert path.exists(), f"rank {runner.rank} went ahead"
            raise TrainingStopped(143, "SIGTERM")


def test_no_rank_goes_ahead_of_the_one_that_writes(tmp_path):
    def action(rank):
        if rank == 0:
            place = files.put_in_place
            files.put_in_place = lambda *paths: (time.sleep(0.5), place(*paths))
        train(tmp_path / "run", 1, hooks=[StopHere()], **DISTRIBUTED)

    assert on_two_ranks(tmp_path, action) == [143, 143], (tmp_path / "rank1.log").read_text()[-2000:]
    assert find_latest(tmp_path / "run") == tmp_path / "run" / "iter_1.pth"
    assert find_damage(tmp_path / "run" / "iter_1.pth") is None


def test_a_full_disk_on_the_one_that_writes_stops_both(tmp_path):
    def action(rank):
        train(tmp_path / "run", 1, **DISTRIBUTED)
        if rank == 0:

            def fail(*paths):
                raise OSError(errno.ENOSPC, "No space left on device")

            files.put_in_place = fail
        train(tmp_path / "run", 2, resume=True, **DISTRIBUTED)

    assert on_two_ranks(tmp_path, action) == [WRITE_FAILED, WRITE_FAILED], (tmp_path / "rank1.log").read_text()[-2000:]
    assert "disk is full" in (tmp_path / "rank0.log").read_text()
    assert checkpoints(tmp_path / "run") == ["epoch_1.pth", "last_checkpoint"]
    assert find_latest(tmp_path / "run") == tmp_path / "run" / "epoch_1.pth"


def test_a_folder_in_which_another_training_works_is_refused_on_both(tmp_path):
    train(tmp_path / "run", 1)
    half = files.temporary_path(tmp_path / "run" / "epoch_2.pth")
    half.write_text("what the other one is about to save")
    lock = files.hold(tmp_path / "run")

    def action(rank):
        files.hold = functools.partial(files.hold, seconds=0.1)
        train(tmp_path / "run", 2, **DISTRIBUTED)

    assert on_two_ranks(tmp_path, action) == [1, 1]
    os.close(lock)
    assert half.exists()
    for rank in range(2):
        assert "another training works in" in (tmp_path / f"rank{rank}.log").read_text().splitlines()[-1]


class OwnStatistics(Hook):
    """Buffers of each rank's own after an epoch, and those that a validation finds."""

    def after_train_epoch(self, runner):
        runner.model.module.ballast.fill_(runner.rank + 1)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        assert runner.model.module.ballast.tolist() == [1] * 3


def test_both_validate_with_the_buffers_that_are_saved(tmp_path):
    def action(rank):
        hooks = [OwnStatistics(), BroadcastBuffersHook()]
        train(tmp_path / "run", 1, ballast=3, hooks=hooks, scores=Scores(), **DISTRIBUTED)

    assert on_two_ranks(tmp_path, action) == [0, 0], (tmp_path / "rank1.log").read_text()[-2000:]


def test_both_go_on_from_what_the_first_one_found(tmp_path):
    train(tmp_path / "run", 2)
    os.truncate(tmp_path / "run" / "epoch_2.pth", 100)

    def action(rank):
        assert find_latest(tmp_path / "run" if rank == 0 else tmp_path) == tmp_path / "run" / "epoch_1.pth"
        train(tmp_path / "run", 3, resume=True, **DISTRIBUTED)

    assert on_two_ranks(tmp_path, action) == [0, 0], (tmp_path / "rank1.log").read_text()[-2000:]
    # An epoch of both together is half as long.
    assert safe_load(tmp_path / "run" / "epoch_3.pth")["meta"]["iter"] == STEPS + 2 * STEPS // 2


def test_ranks_that_would_start_differently_do_not_start(tmp_path):
    """Two machines, and the work folder is on the disk of the first."""
    train(tmp_path / "run", 1)

    def action(rank):
        resumed = dict(resume=True, load_from=str(tmp_path / "run" / "epoch_1.pth")) if rank == 0 else {}
        build(tmp_path / f"run{rank}", 2, **resumed, **DISTRIBUTED).train()

    assert on_two_ranks(tmp_path, action) == [1, 1]
    for rank in range(2):
        said = (tmp_path / f"rank{rank}.log").read_text().splitlines()[-1]
        assert "must share a work folder" in said and "rank 1 from the beginning" in said, said
