"""Hooks that mmengine lacks."""

from hybrid_dense.engine.hooks.batch import BatchSizeHook
from hybrid_dense.engine.hooks.buffers import BroadcastBuffersHook
from hybrid_dense.engine.hooks.checkpoints import AtomicCheckpointHook
from hybrid_dense.engine.hooks.compile import CompileHook
from hybrid_dense.engine.hooks.progress import RichProgressHook
from hybrid_dense.engine.hooks.sickness import SicknessHook
from hybrid_dense.engine.hooks.signals import SignalHook
from hybrid_dense.engine.hooks.staged import StagedTrainingHook
from hybrid_dense.engine.hooks.watchdog import WatchdogHook

__all__ = [
    "AtomicCheckpointHook",
    "BatchSizeHook",
    "BroadcastBuffersHook",
    "CompileHook",
    "RichProgressHook",
    "SicknessHook",
    "SignalHook",
    "StagedTrainingHook",
    "WatchdogHook",
]
