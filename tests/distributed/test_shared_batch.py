"""`--auto-batch` of several processes: the first one searches, for longer than others would wait for a collective."""

import os
import time
from datetime import timedelta

import torch.distributed as dist
from mmengine.config import Config

from hybrid_dense.cli import look_ahead
from hybrid_dense.engine.distributed import end_process


def test_all_processes_take_the_batch_that_the_first_has_found(in_two_processes):
    """Each compares its own (below)."""
    in_two_processes(__file__)


def search_in_a_group() -> None:
    # The others wait for a batch far longer than for anything else.
    dist.init_process_group("gloo", timeout=timedelta(seconds=3))
    searched = []

    def search(cfg, file) -> int:
        searched.append(dist.get_rank())
        time.sleep(6)
        return 3

    look_ahead._search_batch = search
    cfg = Config(
        dict(
            work_dir=os.devnull,
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-4)),
        )
    )
    look_ahead.choose_batch(cfg, keep=False)
    assert cfg.train_dataloader.batch_size == 3
    assert searched == ([0] if dist.get_rank() == 0 else [])


if __name__ == "__main__":
    search_in_a_group()
    end_process(0)
