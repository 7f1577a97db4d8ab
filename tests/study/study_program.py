"""A study whose trainings are fake_train.py, in which nothing is learned and all else is as ever."""

import sys
from pathlib import Path

import numpy as np

from hybrid_dense.cli import run, study_runs
from hybrid_dense.study.plan import read_plan
from hybrid_dense.study.queue import only_one
from hybrid_dense.study.scores import Rights

STEPS = 5


def fake_evaluation(log, function, subject, metric, images=None):
    """10 × steps + seed percent, as the fake training logs it, and scores of a hundred images that say the same."""
    if subject.checkpoint is None:
        value = 0.0
    else:
        seed = int(subject.checkpoint.parent.name.removeprefix("seed"))
        value = 10.0 * int(subject.checkpoint.read_text()) + seed
    rights = Rights(np.arange(100) < value)
    return dict(figures={metric: value}, parameters=1000, scores=rights)


def run_study(folder: Path, words: list[str]) -> int:
    """Run ``folder/toy.yaml``, whose first training gets ``words``; prints what begins, returns the exit code."""
    plan = read_plan(folder / "toy.yaml")
    study_runs.in_own_process = fake_evaluation
    study_runs.find_latest = lambda work_dir: Path(work_dir) / "last.pth"

    def command(run, work_dir):
        print("begin", run.name, flush=True)
        extra, words[:] = list(words), []
        program = Path(__file__).with_name("fake_train.py")
        return [sys.executable, str(program), str(work_dir), str(run.seed), str(STEPS), *extra]

    study = study_runs.Study(plan, plan.runs(), folder / "results", folder / "work")

    def train(_) -> int:
        with only_one(folder / "work" / plan.task) as lock:
            return study.train(lock, command)

    return run(train, None)
