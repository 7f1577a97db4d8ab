"""The parts of `study`: what would run, the trainings, the summary, the corrupted images."""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS, DefaultScope

import hybrid_dense
from hybrid_dense.analysis.machine import describe_machine
from hybrid_dense.cli import CommandError
from hybrid_dense.cli.evaluation_run import Subject, evaluate, in_own_process
from hybrid_dense.cli.robustness import measure
from hybrid_dense.cli.session import load_config
from hybrid_dense.cli.study import REHEARSAL_IMAGES
from hybrid_dense.cli.study_progress import StudyProgress
from hybrid_dense.engine.latest import find_latest
from hybrid_dense.engine.stop import TERMINATED, TrainingStopped
from hybrid_dense.report.study_curves import save_study_curves
from hybrid_dense.report.study_tables import FOR_TERMINALS, model_rows, robustness_rows
from hybrid_dense.report.tables import print_table
from hybrid_dense.study.history import read_history
from hybrid_dense.study.plan import Plan, Run
from hybrid_dense.study.queue import CONSOLE, STOPPED, last_words, note_start, note_trained, read_state, run_process
from hybrid_dense.study.results import is_done, is_stale, publish_run, read_task, sum_up
from hybrid_dense.study.robustness import ROBUSTNESS, sum_up_robustness

PROJECT = Path(hybrid_dense.__file__).parents[1]
CURVES = "curves.png"
ROUNDING = 1e-3  # mmdet rounds to three digits


class Study:
    """The runs of a plan that were asked for, and where they are kept.

    Args:
        plan: the study.
        runs: those of its runs to look at.
        results: folder of what is published.
        work: folder of checkpoints and consoles.
        deadline: `time.monotonic` at which it stops.
    """

    def __init__(self, plan: Plan, runs: Sequence[Run], results: Path, work: Path, deadline: float = float("inf")):
        self.plan, self.runs, self.results, self.work, self.deadline = plan, runs, results, work, deadline

    def describe(self) -> int:
        """Print the models, their size, and how far each of their seeds is."""
        plan = self.plan
        models = {name: [run for run in self.runs if run.model == name] for name in plan.models}
        models = {name: runs for name, runs in models.items() if runs}
        sizes = {name: count_parameters(runs[0]) for name, runs in models.items()}
        reference = sizes.get(plan.reference) or next(iter(sizes.values()))
        rows = [
            (
                name,
                runs[0].config.name,
                f"{sizes[name] / 1e6:.2f} ({sizes[name] / reference:.2f})",
                "{} {}s".format(*length_of(runs[0])),
                "\n".join(f"{run.seed}: {self.state_of(run)}" for run in runs),
            )
            for name, runs in models.items()
        ]
        aim = f", about {plan.minutes:g} minutes a training" if plan.minutes else ""
        header = ("model", "config", "params (M), ratio", "length", "seeds")
        print_table(f"{plan.title}: {plan.metric} of the {plan.checkpoint} checkpoint{aim}", header, rows)
        return 0

    def state_of(self, run: Run) -> str:
        if is_done(run, self.results):
            return "done, its config has changed since" if is_stale(run, self.results) else "done"
        work_dir = run.folder(self.work)
        history = read_history(work_dir, self.plan.metric)
        if not work_dir.is_dir() or not history.iterations:
            return "waits"
        return f"{history.epochs or history.iterations} {history.unit}s trained"

    def train(self, lock: int, command: Callable[[Run, Path], Sequence[str]]) -> int:
        """Run what is not done, publish each run when it is, and print the summary.

        Returns 1 if a training failed; the others have run all the same.

        Raises:
            TrainingStopped: it was told to stop, or its time is over.
            CommandError: the figure that is compared is not there.
        """
        read_task(self.plan, self.results)  # what is published fits
        waiting = [run for run in self.runs if not is_done(run, self.results)]
        for run in self.runs:
            if run not in waiting and is_stale(run, self.results):
                print(f"{run.name} was trained with another config; to train it anew remove {self.folders(run)}")
        # Whatever can be wrong with the runs to come is better known before hours of training.
        if waiting:
            self.check_gpus()
        for run in waiting:
            self.check_saving(run)
        states = {run.name: read_state(run, run.folder(self.work)) for run in waiting}
        if any(not state["trained"] for state in states.values()):
            self.rehearse(waiting[0])
        failed = []
        with StudyProgress(self.plan, self.runs, waiting, self.results) as progress:
            for run in waiting:
                work_dir, state, told = run.folder(self.work), states[run.name], None
                if not state["trained"]:
                    note_start(work_dir, state, begun(self.plan.processes))
                    progress.begin(run, work_dir, length_of(run)[0])
                    code, told = run_process(
                        command(run, work_dir), work_dir / CONSOLE, lock, progress.look, self.deadline
                    )
                    if code in STOPPED:
                        self.stop(max(code, 128 - code))
                    if code:
                        said = last_words(work_dir / CONSOLE)
                        progress.say(f"{run.name} failed with exit code {code}: {said}; more in {work_dir / CONSOLE}")
                        failed.append(run.name)
                    else:
                        note_trained(work_dir, state)
                if state["trained"]:
                    progress.evaluating(run)
                    self.publish(run, state)
                    self.summarise()
                    progress.end(run)
                if told:
                    self.stop(128 + told)
                if time.monotonic() > self.deadline:
                    self.stop(TERMINATED)
        self.print_summary(self.summarise())
        if failed:
            print(f"failed: {', '.join(failed)}; the same command tries again")
        return 1 if failed else 0

    def check_gpus(self) -> None:
        """Raise CommandError where there are GPUs and not one for each process."""
        gpus = torch.cuda.device_count()
        if 0 < gpus < self.plan.processes:
            raise CommandError(f"{self.plan.path} has processes: {self.plan.processes}, each on a GPU; there: {gpus}")

    def check_saving(self, run: Run) -> None:
        """Raise CommandError where the best checkpoint is wanted and would not be kept."""
        saving = (run.read_config().get("default_hooks") or {}).get("checkpoint") or {}
        if self.plan.checkpoint == "best" and saving.get("save_best") != self.plan.metric:
            raise CommandError(
                f"{run.config} keeps no checkpoint of the best {self.plan.metric}; set default_hooks.checkpoint."
                f"save_best={self.plan.metric!r} there, or checkpoint: final in {self.plan.path}"
            )

    def rehearse(self, run: Run) -> None:
        """Evaluate an untrained model on two images: whether the data, the evaluator and its figure are there."""
        work_dir = run.folder(self.work) / "rehearsal"
        for split in self.plan.splits:
            subject = Subject(run.config, tuple(run.option_words()), None, work_dir, split)
            found = in_own_process(work_dir / CONSOLE, evaluate, subject, self.plan.metric, REHEARSAL_IMAGES)
            self.check_figure(found)

    def publish(self, run: Run, state: dict) -> None:
        work_dir = run.folder(self.work)
        evaluated, scores = {}, {}
        for split in self.plan.splits:
            folder = work_dir / f"evaluation_{split}"
            subject = Subject(run.config, tuple(run.option_words()), self.checkpoint_of(run), folder, split)
            found = in_own_process(folder / CONSOLE, evaluate, subject, self.plan.metric)
            self.check_figure(found)
            if found["scores"] is not None:
                scores[split] = found["scores"]
            evaluated[split] = found
        history = read_history(work_dir, self.plan.metric)
        publish_run(self.plan, run, self.results, work_dir, state, history, evaluated, scores)
        (self.results / self.plan.task / ROBUSTNESS).unlink(missing_ok=True)  # its means lack this run

    def check_figure(self, found: dict) -> None:
        """Raise CommandError where a figure is missing, or not what its images say together: its unit is wrong."""
        for name in self.plan.also:
            if name not in found["figures"]:
                known = ", ".join(found["figures"])
                raise CommandError(f"the evaluator gives no {name!r}, which {self.plan.path} names under also: {known}")
        value, scores = found["figures"][self.plan.metric] * self.plan.scale, found["scores"]
        if scores is None:
            return
        expected = float(scores.measure(np.ones((1, scores.images)))[0])
        if abs(value - expected) > ROUNDING:
            raise CommandError(
                f"{self.plan.metric} is {value:.4g}, and {expected:.4g} by its images; percent: "
                f"{str(not self.plan.percent).lower()} in {self.plan.path}?"
            )

    def checkpoint_of(self, run: Run) -> Path:
        """The checkpoint of a trained run that is evaluated.

        Raises:
            CommandError: there is none.
        """
        work_dir = run.folder(self.work)
        if self.plan.checkpoint == "best":
            best = sorted(work_dir.glob("best_*.pth"), key=lambda path: path.stat().st_mtime)
            if not best:
                raise CommandError(f"{work_dir} holds no best_*.pth; to train it anew remove {self.folders(run)}")
            return best[-1]
        number, unit = length_of(run)
        counted, found = "epoch_" if unit == "epoch" else "iter_", find_latest(work_dir)
        if found is None or (found.name.startswith(counted) and found.name != f"{counted}{number}.pth"):
            raise CommandError(f"{work_dir} lacks its last checkpoint; to train it anew remove {self.folders(run)}")
        return found

    def folders(self, run: Run) -> str:
        """Those that hold a run."""
        return " and ".join(str(folder) for root in (self.results, self.work) if (folder := run.folder(root)).exists())

    def stop(self, code: int) -> None:
        raise TrainingStopped(code, "the study stopped, all saved; the same command goes on")

    def summarise(self) -> dict:
        """Sum up the task's published runs and draw their curves."""
        summary = sum_up(self.plan, self.results)
        if any(entry["validations"] for entry in summary.values()):
            runs = read_task(self.plan, self.results)
            save_study_curves(runs, self.plan.metric, self.results / self.plan.task / CURVES)
        return summary

    def print_summary(self, summary: dict) -> None:
        if summary:
            print_table(self.plan.title, *model_rows(summary, FOR_TERMINALS))
            print(f"written to {self.results / 'results.json'} and {self.results / self.plan.task}")

    def corrupt(self) -> int:
        """Measure every trained run under corrupted images, and sum them up."""
        trained = [run for run in self.runs if is_done(run, self.results)]
        if not trained:
            raise CommandError(f"no run of {self.plan.task} is done; train first: leave out --robustness")
        for run in trained:
            if is_stale(run, self.results):
                raise CommandError(f"{run.name} was trained with another config; first remove {self.folders(run)}")
            split = self.plan.splits[0]
            folder = run.folder(self.work) / "robustness"
            subject = Subject(run.config, tuple(run.option_words()), self.checkpoint_of(run), folder, split)
            file = run.folder(self.results) / ROBUSTNESS
            print(f"{run.name}: robustness", flush=True)
            measure(subject, self.plan.metric, self.plan.scale, file, deadline=self.deadline)
        summary = sum_up_robustness(self.results, self.plan.task, self.plan.models)
        print_table(f"{self.plan.title}: {self.plan.metric} on corrupted images", *robustness_rows(summary))
        return 0


def count_parameters(run: Run) -> int:
    """Parameters of a run's model, which is built and not trained."""
    cfg = load_config(argparse.Namespace(config=run.config, cfg_options=run.option_words(), work_dir=None, amp=None))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def length_of(run: Run) -> tuple[int, str]:
    """How long a run trains: a number, and "epoch" or "iteration"."""
    loop = run.read_config().get("train_cfg") or {}
    return (loop["max_epochs"], "epoch") if "max_epochs" in loop else (loop.get("max_iters", 0), "iteration")


def begun(processes: int) -> dict:
    """What is noted when a training in so many processes begins: the commit and the machine."""
    machine = describe_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.float32)
    shared = f"threads: {machine['threads']}" if processes == 1 else f"{processes} processes of one thread"
    words = [machine["cpu"], f"{machine['cores']} cores", shared, machine.get("gpu")]
    return dict(commit=commit(), machine=", ".join([*filter(None, words), f"torch {machine['torch']}"]))


def commit() -> str:
    """The commit of the code, with "+changes" where package or configs differ from it; the version without git."""
    version = f"version {hybrid_dense.__version__}"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != PROJECT.resolve():
            return version  # installed within a repository of someone else's
        changed = git("status", "--porcelain", "--", "hybrid_dense", "configs")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return version
