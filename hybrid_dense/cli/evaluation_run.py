"""Evaluate a trained model in a process of its own, for `study` and `robustness`: a figure, and each image's part.

What mmengine keeps for the whole process (loggers, scopes, hubs) then ends with the evaluation, and so does its memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        config: the config file.
        options: ``KEY=VALUE`` changes to it.
        checkpoint: weights; None leaves them random.
        work_dir: where the evaluation logs.
        split: "val" or "test".
    """

    config: Path
    options: tuple[str, ...]
    checkpoint: Path | None
    work_dir: Path
    split: str = "test"
    trust: bool = False


def in_own_process(log: Path, function: Callable, *arguments: object):
    """``function(*arguments)``, what it prints added to ``log``; its exceptions are raised here. It ends with this one.

    Raises:
        CommandError: the process was killed.
    """
    from hybrid_dense.cli import CommandError
    from hybrid_dense.engine.local_processes import end_with_parent

    log.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            return pool.submit(_printing_to, log, function, *arguments).result()
        except BrokenProcessPool:
            raise CommandError(f"an evaluation was killed; what it said is in {log}") from None


def _printing_to(log: Path, function: Callable, *arguments: object):
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return function(*arguments)


def evaluate(subject: Subject, metric: str, images: int | None = None) -> dict:
    """``figures`` of a model, its number of ``parameters``, and ``scores`` of each image behind the figure ``metric``.

    Args:
        subject: what is evaluated.
        metric: the figure, as the evaluator calls it.
        images: evaluate on the first so many only.

    Raises:
        CommandError: the evaluator has no such figure.
    """
    from hybrid_dense.cli import CommandError
    from hybrid_dense.engine.parts import unwrap
    from hybrid_dense.study.scores import KeepResults, register_host_scores

    cfg = _load(subject)
    if images is not None:
        cfg.test_dataloader.dataset.indices = images
    register_host_scores(cfg.default_scope)
    runner = _build(cfg, subject)
    keep = KeepResults(metric)
    runner.register_hook(keep)
    figures = {name: float(value) for name, value in runner.test().items() if isinstance(value, (int, float))}
    if metric not in figures:
        raise CommandError(f"{subject.config} has no figure {metric!r}; its evaluator gives {', '.join(figures)}")
    parameters = sum(parameter.numel() for parameter in unwrap(runner.model).parameters())
    return dict(figures=figures, parameters=parameters, scores=keep.scores)


def evaluate_conditions(subject: Subject, metric: str, conditions: Sequence[tuple[str, int] | None]) -> list[float]:
    """The figure ``metric`` under each (corruption, strength); None is the clean data.

    Raises:
        CommandError: the evaluator has no such figure.
        ValueError: the data cannot be corrupted in this way.
    """
    from hybrid_dense.cli import CommandError
    from hybrid_dense.study.corruptions import corrupt_pipeline

    cfg = _load(subject)
    runner = _build(cfg, subject)
    values = []
    for condition in conditions:
        loader = deepcopy(cfg.test_dataloader)
        if condition is not None:
            if "pipeline" not in loader.dataset:
                raise CommandError(
                    f"{subject.config}: its test data have no pipeline of transforms to corrupt images in"
                )
            loader.dataset.pipeline = corrupt_pipeline(loader.dataset.pipeline, *condition)
        runner._test_dataloader, runner._test_evaluator = loader, deepcopy(cfg.test_evaluator)
        runner._test_loop = deepcopy(cfg.test_cfg)
        figures = runner.test()
        if metric not in figures:
            raise CommandError(f"{subject.config} has no figure {metric!r}; its evaluator gives {', '.join(figures)}")
        values.append(float(figures[metric]))
    return values


def _load(subject: Subject):
    """The config, whose test split is the one to evaluate on."""
    from hybrid_dense.cli.session import load_config

    args = argparse.Namespace(
        config=subject.config, cfg_options=list(subject.options), work_dir=subject.work_dir, amp=None
    )
    cfg = load_config(args)
    if subject.split == "val":
        cfg.test_dataloader, cfg.test_evaluator = deepcopy(cfg.val_dataloader), deepcopy(cfg.val_evaluator)
    cfg.load_from, cfg.resume, cfg.launcher = None, False, "none"
    return cfg


def _build(cfg, subject: Subject):
    from hybrid_dense.cli.session import build_runner
    from hybrid_dense.engine.checkpoint import read_checkpoint
    from hybrid_dense.engine.model_weights import load_weights
    from hybrid_dense.engine.parts import unwrap

    weights = None
    if subject.checkpoint is not None:
        weights = read_checkpoint(subject.checkpoint, trust=subject.trust)
    runner = build_runner(cfg, ("test",))
    if weights is not None:
        load_weights(unwrap(runner.model), weights)
    return runner
