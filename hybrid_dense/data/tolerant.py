"""Train past a few broken images, and say which; stop at many. Evaluation stops at the first.

A broken image costs its sample, not the training: its name is logged once, another sample takes its place, and all
workers of a process count it in one shared memory. In evaluation nothing is left out, since the figures of a part of a
data set are not those of the data set.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import sys
import zlib
from collections.abc import Iterator

import cv2
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from hybrid_dense.data.image_file import first_line

MAX_BROKEN = 0.01
"""The share of a data set that may be broken. At least one image may."""
# mmcv asserts that an image was decoded. A mistake in a transform raises other things, and stops as ever.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, zlib.error, struct.error, AssertionError, cv2.error)


class BrokenDataError(ValueError):
    """Images cannot be read: too many in training, or one in evaluation.

    A worker's error reaches the main process as text with a traceback in front; only its last line is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].split(f"{type(self).__name__}: ")[-1])


class TolerantPipeline:
    """A data set's pipeline that answers None, "take another", for a sample that is broken.

    Args:
        pipeline: the pipeline to run.
        length: number of samples of the data set.
        max_broken: the share of them that may be broken, 0 to 1; None raises at the first.
    """

    def __init__(self, pipeline, length: int, max_broken: float | None):
        self.pipeline = pipeline
        # A little less, so that 0.07 of 100 is 7 in binary numbers too.
        self.limit = None if max_broken is None else math.ceil(max_broken * length - 1e-9)
        self.broken = torch.zeros(length, dtype=torch.bool).share_memory_()

    @property
    def transforms(self) -> list:
        return self.pipeline.transforms

    def __call__(self, sample: dict) -> dict | None:
        """Run the pipeline on one entry of mmengine's data list.

        Raises:
            BrokenDataError: more samples are broken than may be.
        """
        path, index = sample.get("img_path"), sample["sample_idx"]
        try:
            return self.pipeline(sample)
        except BROKEN as error:
            self.count(index, f"{path}: {describe(error)}", error)
            return None

    def count(self, index: int, said: str, error: Exception) -> None:
        if self.limit is None:
            raise BrokenDataError(f"broken image in evaluation: {said}; mend it or take it out") from error
        if self.broken[index]:
            return
        self.broken[index] = True
        count = int(self.broken.sum())
        if count > self.limit:
            raise BrokenDataError(
                f"{count} of {len(self.broken)} images are broken, more than the {self.limit} that max_broken allows; "
                f"the last: {said}; `hybrid-dense check-data` lists them"
            ) from error
        warning = f"skipped broken image {said} ({count} of at most {self.limit})"
        print_log(warning, "current", logging.WARNING)
        # mmengine's logger keeps the warnings of other ranks to itself.
        if (rank := os.environ.get("RANK", "0")) != "0":
            print(f"hybrid-dense: warning: rank {rank}: {warning}", file=sys.stderr, flush=True)


def describe(error: Exception) -> str:
    """One line; mmcv's assertion would repeat the path, OpenCV's error name its own source file."""
    if isinstance(error, cv2.error) or (isinstance(error, AssertionError) and "failed to load" in str(error)):
        return "cannot be decoded"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


class BrokenImages(Hook):
    """Makes the pipelines of a runner's data sets tolerant (training) or outspoken (validation, test).

    It comes last before an epoch, so that it covers the pipeline that mmdet's PipelineSwitchHook has just put in.

    Args:
        max_broken: the share of each training data set that may be broken, 0 to 1.
    """

    priority = "VERY_LOW"

    def __init__(self, max_broken: float = MAX_BROKEN):
        if not isinstance(max_broken, (int, float)) or not 0 <= max_broken <= 1:
            raise ValueError(f"max_broken={max_broken!r} is no share; give 0 to 1, such as 0.01 for one in a hundred")
        self.max_broken = max_broken

    def before_train_epoch(self, runner: Runner) -> None:
        guard(runner.train_dataloader.dataset, self.max_broken)

    def before_val_epoch(self, runner: Runner) -> None:
        guard(runner.val_dataloader.dataset, None)

    def before_test_epoch(self, runner: Runner) -> None:
        guard(runner.test_dataloader.dataset, None)


def guard(dataset, max_broken: float | None) -> None:
    """Put a `TolerantPipeline` around the pipeline of every data set in ``dataset`` that has none yet."""
    for inner in innermost(dataset):
        if not isinstance(inner.pipeline, TolerantPipeline):
            inner.pipeline = TolerantPipeline(inner.pipeline, len(inner), max_broken)


def innermost(dataset) -> Iterator:
    """The data sets with entries under wrappers and concatenations."""
    below = getattr(dataset, "datasets", None) or [
        getattr(dataset, name) for name in ("dataset", "_dataset") if hasattr(dataset, name)
    ]
    for inner in below:
        yield from innermost(inner)
    if not below and hasattr(dataset, "pipeline") and hasattr(dataset, "get_data_info"):
        yield dataset


def tolerate_broken_images(runner: Runner) -> Runner:
    """Give the runner the hook, with ``max_broken`` of its config; returns the runner."""
    runner.register_hook(BrokenImages(runner.cfg.get("max_broken", MAX_BROKEN)))
    return runner
