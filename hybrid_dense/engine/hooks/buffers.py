"""Validate on every process the model that is saved."""

from __future__ import annotations

from mmengine.dist import broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from hybrid_dense.engine.parts import unwrap


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Give rank 0's buffers, BatchNorm's statistics among them, to every process before a validation.

    Without SyncBN each process has statistics of its own batches. It would judge its share of the images with them, and
    the figure would be that of no model: a checkpoint holds rank 0's.
    """

    priority = "LOWEST"  # when EMAHook has put the averages in place

    def before_val_epoch(self, runner) -> None:
        if get_world_size() > 1:
            for buffer in unwrap(runner.model).buffers():
                broadcast(buffer)
