"""Validation and test in which the metrics work on one batch while the network computes the next.

The metrics run in a thread of their own, one batch after the other and in the loop's order, so that they see what they
would have seen and their figures stay the same. numpy, OpenCV and torch let go of Python's lock while they compute, and
a GPU needs none; what metrics do in plain Python takes as long as before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import TestLoop, ValLoop
from mmengine.structures import BaseDataElement


class OverlappedEvaluator(Evaluator):
    """Lets another evaluator process its batches in a thread, while this one is open as a context.

    ``process`` returns at once, ``evaluate`` waits for all batches. What a metric raises, the next call of either
    raises. Leaving the context by an exception drops the batches that wait.

    Args:
        evaluator: does the work; any of mmengine's.
        ahead: batches whose metrics may be unfinished when ``process`` returns; they and their predictions stay in
            memory, on the device where they are. 0 processes each at once.
    """

    def __init__(self, evaluator: Evaluator, ahead: int = 1) -> None:
        if ahead < 0:
            raise ValueError(f"ahead={ahead} is no number of batches; 0 lets the network wait for the metrics")
        super().__init__(evaluator.metrics)
        self._dataset_meta = evaluator.dataset_meta
        self.evaluator = evaluator
        self.ahead = ahead
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> OverlappedEvaluator:
        if self.ahead:
            # A thread starts out on the first GPU, and going back to its stream would take memory there.
            device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
            begin = dict(initializer=torch.cuda.set_device, initargs=(device,)) if device is not None else {}
            self._thread = ThreadPoolExecutor(1, "metrics", **begin)
        return self

    def __exit__(self, *exception) -> None:
        thread, self._thread = self._thread, None
        self._waiting.clear()  # first: Ctrl-C may end the waiting below
        if thread is not None:
            thread.shutdown(cancel_futures=True)

    def process(self, data_samples: Sequence, data_batch: Any | None = None) -> None:
        # Hooks and the model may write into the samples' fields after this call, but not into their tensors.
        samples = [sample.to_dict() if isinstance(sample, BaseDataElement) else sample for sample in data_samples]
        if self._thread is None:
            self.evaluator.process(samples, data_batch)
            return
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        self._waiting.append(self._thread.submit(self._process, samples, data_batch, stream))
        while self._waiting and (len(self._waiting) > self.ahead or self._waiting[0].done()):
            self._waiting.popleft().result()

    def _process(self, samples: list, data_batch: Any | None, stream: torch.cuda.Stream | None) -> None:
        # Gradients, device and stream are each thread's own; on the network's stream its results are there in time.
        with torch.no_grad(), torch.cuda.stream(stream):
            self.evaluator.process(samples, data_batch)

    def evaluate(self, size: int) -> dict:
        while self._waiting:
            self._waiting.popleft().result()
        return self.evaluator.evaluate(size)


class OverlappedLoop:
    """What both loops share; stands before mmengine's loop among the bases."""

    def __init__(self, *args, ahead: int = 1, **options) -> None:
        super().__init__(*args, **options)
        self.evaluator = OverlappedEvaluator(self.evaluator, ahead)

    def run(self) -> dict:
        with self.evaluator:
            return super().run()


@LOOPS.register_module()
class OverlappedValLoop(OverlappedLoop, ValLoop):
    """mmengine's `ValLoop` with `OverlappedEvaluator`: the same arguments, and ``ahead``."""


@LOOPS.register_module()
class OverlappedTestLoop(OverlappedLoop, TestLoop):
    """mmengine's `TestLoop` with `OverlappedEvaluator`: the same arguments, and ``ahead``."""


def overlap_evaluation(cfg: Config) -> None:
    """Exchange mmengine's loops of validation and test for these, in place; loops of another make stay."""
    for key, plain, ours in (("val_cfg", ValLoop, OverlappedValLoop), ("test_cfg", TestLoop, OverlappedTestLoop)):
        loop = cfg.get(key)
        if loop is not None and loop.get("type", plain) in (plain, plain.__name__):
            loop["type"] = ours.__name__
