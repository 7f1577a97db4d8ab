"""What a study publishes: a folder for each run, and one file that sums them up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hybrid_dense.engine.files import write_text
from hybrid_dense.study.bootstrap import compare
from hybrid_dense.study.history import History
from hybrid_dense.study.plan import Plan, Run
from hybrid_dense.study.private import scrub
from hybrid_dense.study.scores import Scores, load_scores, save_scores
from hybrid_dense.study.stored import read_json

METRICS, LOG, CONFIG, SCORES = "metrics.json", "log.txt", "config.py", "per_image.npz"
RESULTS = "results.json"


def is_done(run: Run, results: Path) -> bool:
    """Whether a run is published."""
    return (run.folder(results) / METRICS).is_file()


def is_stale(run: Run, results: Path) -> bool:
    """Whether a published run was trained with another config than its file says now."""
    published = read_json(run.folder(results) / METRICS)
    return published["fingerprint"] != run.fingerprint()


def publish_run(
    plan: Plan,
    run: Run,
    results: Path,
    work_dir: Path,
    state: dict,
    history: History,
    evaluated: dict[str, dict],
    scores: dict[str, Scores],
) -> None:
    """Write log, config, per-image scores and, last, the figures of a run.

    Args:
        state: what was noted when the training began.
        history: its course.
        evaluated: split → dict(figures, parameters) of the trained model.
        scores: split → what each image contributed; splits may be missing.
    """
    folder = run.folder(results)
    folder.mkdir(parents=True, exist_ok=True)
    about = dict(commit=state["commit"], machine=state["machine"], seed=run.seed)
    head = "".join(f"{name}: {value}\n" for name, value in about.items())
    # The starts of the training in their order, then the evaluations.
    logs = [*sorted(work_dir.glob("[0-9]*/*.log")), *sorted(work_dir.glob("evaluation_*/console.log"))]
    outside = {str(work_dir.absolute()): "$WORK_DIR", str(run.options.get("data_root", "")): "$DATA_ROOT"}
    write_text(folder / LOG, scrub(head + "".join(log.read_text(errors="replace") for log in logs), outside))
    dumped = next((file for file in sorted(work_dir.glob("*.py"))), run.config)
    write_text(folder / CONFIG, scrub(dumped.read_text(), outside))
    if scores:
        save_scores(folder / SCORES, scores)
    figures = {split: found["figures"] for split, found in evaluated.items()}
    content = dict(
        model=run.model,
        seed=run.seed,
        metric=_figure(plan, plan.metric, figures[plan.splits[0]]),
        metric_name=plan.metric,
        split=plan.splits[0],
        checkpoint=plan.checkpoint,
        params=evaluated[plan.splits[0]]["parameters"],
        epochs=history.epochs,
        iterations=history.iterations,
        train_minutes=round(history.minutes, 2),
        commit=state["commit"],
        machine=state["machine"],
        fingerprint=state["fingerprint"],
        figures=figures,
        curve_unit=history.unit,
        curve=[[step, round(minutes, 3), round(value * plan.scale, 5)] for step, minutes, value in history.curve],
    )
    write_text(folder / METRICS, json.dumps(content, indent=1) + "\n")


def read_runs(results: Path, task: str, model: str) -> list[dict]:
    """The published runs of a model by seed: what ``metrics.json`` says, and "folder"."""
    files = (results / task / model).glob(f"seed*/{METRICS}")
    runs = [dict(read_json(file), folder=file.parent) for file in files]
    return sorted(runs, key=lambda run: run["seed"])


def read_results(results: Path) -> dict:
    """``results.json`` as a dict, {} where there is none."""
    file = results / RESULTS
    return read_json(file) if file.is_file() else {}


def read_task(plan: Plan, results: Path) -> dict[str, list[dict]]:
    """Model → its published runs, for models that have any.

    Raises:
        ValueError: a run was published for another figure than the plan asks for.
    """
    runs = {name: read_runs(results, plan.task, name) for name in plan.models}
    wanted = dict(metric_name=plan.metric, split=plan.splits[0], checkpoint=plan.checkpoint)
    for run in (run for found in runs.values() for run in found):
        published = {key: run[key] for key in wanted}
        if published != wanted or not set(plan.splits) <= set(run["figures"]):
            say = [" ".join((*entry.values(), "checkpoint")) for entry in (published, wanted)]
            raise ValueError(
                f"{run['folder']} was published as {say[0]} on {', '.join(run['figures'])}; {plan.path} says {say[1]} "
                f"on {', '.join(plan.splits)}; remove the folder, and it is evaluated anew"
            )
    return {name: found for name, found in runs.items() if found}


def sum_up(plan: Plan, results: Path) -> dict:
    """Write what the published runs of a task say into ``results.json``, and return it for this task.

    Other tasks stay. Every model that has a run is in it, with the mean over its seeds; intervals are there where the
    per-image scores of its seeds are. Seeds that were trained with another config than the file says now are "stale".

    Raises:
        ValueError: runs cannot stand together; says which folder to remove.
    """
    runs = read_task(plan, results)
    summary = {name: _model(plan, found) for name, found in runs.items()}
    for split in plan.splits:
        _add_intervals(plan, split, runs, summary)
    results.mkdir(parents=True, exist_ok=True)
    with locked(results):  # studies of other tasks write the same file
        content = read_results(results)
        content[plan.task] = summary
        if not summary:
            del content[plan.task]
        write_text(results / RESULTS, json.dumps(content, indent=2) + "\n")
    return summary


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process holds the folder, and hold it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _model(plan: Plan, runs: list[dict]) -> dict:
    metrics = [run["metric"] for run in runs]
    minutes = [run["train_minutes"] for run in runs]
    return dict(
        metric=_round(np.mean(metrics)),
        sd=_round(np.std(metrics, ddof=1)) if len(metrics) > 1 else None,
        seeds=[run["seed"] for run in runs],
        stale=[run["seed"] for run in runs if is_stale(plan.run(run["model"], run["seed"]), run["folder"].parents[2])],
        metrics=metrics,
        metric_name=plan.metric,
        also={name: _mean_figure(plan, name, plan.splits[0], runs) for name in plan.also},
        title=plan.title,
        study=scrub(str(plan.path)),
        split=plan.splits[0],
        checkpoint=plan.checkpoint,
        reference=plan.reference,
        params=runs[0]["params"],
        epochs=runs[0]["epochs"],
        iterations=runs[0]["iterations"],
        train_minutes=_round(np.mean(minutes)),
        planned_minutes=plan.minutes,
        validations=sum(len(run["curve"]) for run in runs),
        machine="; ".join(sorted({run["machine"] for run in runs})),
        commit=", ".join(sorted({run["commit"] for run in runs})),
        splits={
            split: dict(
                metric=_mean_figure(plan, plan.metric, split, runs),
                metrics=[_figure(plan, plan.metric, run["figures"][split]) for run in runs],
            )
            for split in plan.splits
        },
    )


def _add_intervals(plan: Plan, split: str, runs: dict[str, list[dict]], summary: dict) -> None:
    """95 % intervals of each model, and of the reference above each other one, where the scores are there."""
    scores = {name: [load_scores(run["folder"] / SCORES).get(split) for run in found] for name, found in runs.items()}
    scores = {name: seeds for name, seeds in scores.items() if all(seed is not None for seed in seeds)}
    if not scores:
        return
    images = {run["folder"]: one.images for name in scores for run, one in zip(runs[name], scores[name], strict=True)}
    if len(set(images.values())) > 1:
        counts = ", ".join(f"{folder}: {count}" for folder, count in images.items())
        raise ValueError(f"evaluated on different images ({counts}); remove what is older, and it is evaluated anew")
    found = compare(scores, plan.reference, plan.higher_is_better)
    for name, interval in found.models.items():
        summary[name]["splits"][split]["interval"] = [_round(interval.low), _round(interval.high)]
    for name, interval in found.above.items():
        summary[plan.reference]["splits"][split].setdefault("above", {})[name] = dict(
            difference=_round(interval.value), interval=[_round(interval.low), _round(interval.high)], p=interval.p
        )


def _figure(plan: Plan, name: str, figures: dict[str, float]) -> float:
    """A figure of one evaluation, in shares of 1 where the evaluator gives percent."""
    if name not in figures:
        raise ValueError(f"{plan.path}: the evaluator gives no {name!r}; it gives {', '.join(figures)}")
    return _round(figures[name] * plan.scale)


def _mean_figure(plan: Plan, name: str, split: str, runs: list[dict]) -> float:
    return _round(np.mean([_figure(plan, name, run["figures"][split]) for run in runs]))


def _round(value: float) -> float:
    return round(float(value), 6)
