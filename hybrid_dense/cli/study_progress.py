"""How far a study is: the runs, the epochs of the present one, its last figure and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hybrid_dense.cli.durations import duration
from hybrid_dense.study.history import read_history
from hybrid_dense.study.plan import Plan, Run
from hybrid_dense.study.results import read_runs

LOOK_SECONDS, LINE_SECONDS = 5, 60


class StudyProgress:
    """Two live bars on standard error, the study's and the present run's; without a terminal a line each minute.

    The time left counts on what finished runs of the same model took, else on the pace of the present run.

    Args:
        plan: the study.
        runs: all runs that were asked for.
        waiting: those of them that are not done.
        results: where the done ones are.
    """

    def __init__(self, plan: Plan, runs: Sequence[Run], waiting: Sequence[Run], results: Path):
        self.plan, self.waiting, self.results = plan, list(waiting), results
        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.whole = self.bars.add_task(plan.task, total=len(runs), completed=len(runs) - len(waiting), details="")
        self.part = self.bars.add_task("", total=1, details="", visible=False)
        self.took: dict[str, float] = {}

    def __enter__(self) -> StudyProgress:
        self.bars.start()
        for model in self.plan.models:
            minutes = [run["train_minutes"] for run in read_runs(self.results, self.plan.task, model)]
            if minutes:
                self.took[model] = 60 * sum(minutes) / len(minutes)
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, run: Run, work_dir: Path, length: int) -> None:
        self.run, self.work_dir, self.length = run, work_dir, length
        self.started, self.at_start = time.monotonic(), read_history(work_dir, self.plan.metric)
        self.looked = self.told = time.monotonic()
        done = self.at_start.epochs or self.at_start.iterations
        if self.bars.disable:
            self.say(f"{run.name}: training" + (f", {done} {self.at_start.unit}s are done" if done else ""))
        self.bars.reset(self.part, description=run.name, total=length, completed=done, details="", visible=True)

    def look(self) -> None:
        """Read how far the present run is; called often, it does so now and then."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        history = read_history(self.work_dir, self.plan.metric)
        done = history.epochs or history.iterations
        figure = f"{self.plan.metric} {history.curve[-1][2] * self.plan.scale:.4f}  " if history.curve else ""
        details = f"{figure}{self._left(done, history.minutes)}"
        self.bars.update(self.part, completed=done, details=details)
        if self.bars.disable and now - self.told > LINE_SECONDS:
            self.told = now
            self.say(f"{self.run.name}: {history.unit} {done}/{self.length}  {details}")

    def evaluating(self, run: Run) -> None:
        self.bars.reset(self.part, description=run.name, total=1, details="evaluating", visible=True)
        if self.bars.disable:
            self.say(f"{run.name}: evaluating")

    def end(self, run: Run) -> None:
        found = read_runs(self.results, self.plan.task, run.model)
        published = next(entry for entry in found if entry["seed"] == run.seed)
        self.took[run.model] = 60 * published["train_minutes"]
        self.waiting.remove(run)
        self.bars.advance(self.whole)
        self.say(
            f"{run.name}: {self.plan.metric} {published['metric']:.4f}, {published['epochs']} epochs, "
            f"{published['train_minutes']:.1f} minutes"
        )

    def _left(self, done: int, minutes: float) -> str:
        """What is left of the study, where anything is known: the epoch under way counts as half."""
        if not done or not minutes or not self.length:
            return ""
        pace = 60 * minutes / max(done - 0.5, 0.5)
        rest = pace * max(self.length - done, 0)
        known = {self.run.model: pace * self.length, **self.took}
        guess = sum(known.values()) / len(known)
        others = sum(known.get(run.model, guess) for run in self.waiting if run != self.run)
        return f"{duration(rest)} left, {duration(rest + others)} in all"
