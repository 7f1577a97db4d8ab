"""A study of fake trainings: killed anywhere it goes on, what it publishes is whole and names no folder of here."""

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest
import torch
import yaml
from study_program import run_study

from hybrid_dense.cli import CommandError, main
from hybrid_dense.cli.evaluation_run import in_own_process
from hybrid_dense.cli.study_runs import Study
from hybrid_dense.engine import local_processes
from hybrid_dense.study.plan import read_plan
from hybrid_dense.study.queue import last_words, only_one, run_process
from hybrid_dense.study.results import locked, sum_up

# A rank that takes a while to save when it is asked to stop.
RANK = """
import os, pathlib, signal, sys, time
file = pathlib.Path(os.environ["RANK"])
def save(number, frame):
    time.sleep(0.3)
    file.with_suffix(".saved").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
file.with_suffix(".launcher").write_text(str(os.getppid()))
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    """A study of two models and two seeds."""
    (tmp_path / "toy.py").write_text("train_cfg = dict(max_epochs=5)\n")
    study = dict(task="toy", metric="mIoU", percent=True, seeds=[0, 1], models=dict(hybrid="toy.py", cnn="toy.py"))
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return tmp_path


@pytest.fixture
def start(folder):
    """Start the study in a process of its own, a fork of this one, which has torch loaded."""

    def call(*words) -> multiprocessing.Process:
        for name in ("out", "err"):
            (folder / name).write_text("")
        process = multiprocessing.get_context("fork").Process(target=study_process, args=(folder, list(words)))
        process.start()
        return process

    return call


def study_process(folder, words):
    os.chdir(folder)
    sys.stdout, sys.stderr = ((folder / name).open("w", buffering=1) for name in ("out", "err"))
    sys.exit(run_study(folder, words))


@pytest.fixture
def finish(folder):
    """Exit code of a study, the trainings that it began, and all that it said."""

    def call(process) -> tuple[int, list[str], str]:
        process.join(60)
        said = (folder / "out").read_text()
        begun = [line.removeprefix("begin ") for line in said.splitlines() if line.startswith("begin ")]
        return process.exitcode, begun, said + (folder / "err").read_text()

    return call


def summary(folder) -> dict:
    return json.loads((folder / "results/results.json").read_text())["toy"]


def wait_until_free(folder) -> None:
    """Until the last training of a killed study has ended."""
    with (folder / "work/toy/.lock").open("w") as file:
        for _ in range(300):
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
    raise AssertionError("the training of a killed study runs on")


def test_a_killed_study_goes_on_where_it_was(folder, start, finish):
    code, begun, _ = finish(start("--kill-parent-at", "3"))
    assert (code, begun) == (-signal.SIGKILL, ["hybrid seed 0"])
    assert not (folder / "results").exists()
    wait_until_free(folder)
    # The killed study's training was told to end, and saved.
    assert 3 <= int((folder / "work/toy/hybrid/seed0/last.pth").read_text()) < 5

    code, begun, said = finish(start())
    assert (code, begun) == (0, ["hybrid seed 0", "cnn seed 0", "hybrid seed 1", "cnn seed 1"]), said
    published = folder / "results/toy/hybrid/seed0"
    assert {file.name for file in published.iterdir()} == {"log.txt", "config.py", "metrics.json", "per_image.npz"}
    log = (published / "log.txt").read_text()
    assert log.count("started after step") == 2
    assert "started after step 0 in work/toy" in log
    assert str(folder) not in "".join(file.read_text() for file in (folder / "results").rglob("*.[tpj][xys]*"))
    metrics = json.loads((published / "metrics.json").read_text())
    assert metrics["metric"] == 0.5
    assert metrics["curve"] == [[step, pytest.approx(step / 120, abs=1e-3), step / 10] for step in range(1, 6)]
    assert metrics["train_minutes"] == pytest.approx(2.5 / 60, abs=0.005)

    found = summary(folder)
    assert list(found) == ["hybrid", "cnn"]
    hybrid = found["hybrid"]
    assert (hybrid["metric"], hybrid["seeds"], hybrid["metrics"]) == (0.505, [0, 1], [0.5, 0.51])
    assert (hybrid["params"], hybrid["epochs"], hybrid["checkpoint"]) == (1000, 5, "final")
    assert hybrid["commit"]
    assert "torch" in hybrid["machine"]
    low, high = hybrid["splits"]["val"]["above"]["cnn"]["interval"]
    assert -0.03 < low < 0 < high < 0.03  # equal models, whose seeds differ by 0.01
    assert (folder / "results/toy/curves.png").stat().st_size < 200_000

    code, begun, _ = finish(start())
    assert (code, begun) == (0, [])


def test_a_stopped_study_hands_the_signal_on_and_says_how_to_go_on(folder, start, finish):
    process = start()
    for _ in range(200):
        if (folder / "work/toy/hybrid/seed0/last.pth").is_file():
            break
        time.sleep(0.02)
    process.terminate()
    code, begun, said = finish(process)
    assert (code, begun) == (143, ["hybrid seed 0"])
    assert "the same command goes on" in said
    assert not (folder / "results").exists()


def test_a_failed_training_is_named_and_the_others_run(folder, start, finish):
    code, begun, said = finish(start("--fail"))
    assert code == 1
    assert begun == ["hybrid seed 0", "cnn seed 0", "hybrid seed 1", "cnn seed 1"]
    assert "hybrid seed 0 failed with exit code 2: fake: error: no data" in said
    assert summary(folder)["hybrid"]["seeds"] == [1]
    code, begun, _ = finish(start())
    assert (code, begun) == (0, ["hybrid seed 0"])
    assert summary(folder)["hybrid"]["seeds"] == [0, 1]


def test_two_studies_do_not_train_in_one_folder(folder, start, finish):
    (folder / "work/toy").mkdir(parents=True)
    with (folder / "work/toy/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, begun, said = finish(start())
    assert (code, begun) == (2, [])
    assert "still runs in" in said


def test_a_training_that_was_begun_with_another_config_is_not_mixed(folder, start, finish):
    finish(start("--kill-parent-at", "3"))
    wait_until_free(folder)
    (folder / "toy.py").write_text("train_cfg = dict(max_epochs=9)\n")
    code, begun, said = finish(start())
    assert (code, begun) == (2, [])
    assert "was begun with another config" in said


def test_a_published_run_of_another_config_is_kept_and_named(folder, start, finish):
    finish(start())
    (folder / "toy.py").write_text("train_cfg = dict(max_epochs=9)\n")
    code, begun, said = finish(start())
    assert (code, begun) == (0, [])
    assert said.count("was trained with another config; to train it anew remove ") == 4
    assert summary(folder)["hybrid"]["stale"] == [0, 1]


@pytest.mark.parametrize("killed", ["study", "launcher"])
def test_two_processes_save_and_hold_the_lock_whoever_is_killed(folder, killed):
    def train():
        os.chdir(folder)
        command = [sys.executable, local_processes.__file__, "2", sys.executable, "-c", RANK]
        with only_one(folder / "work/toy") as lock:
            run_process(command, folder / "console.log", lock, pause=0.1)

    study = multiprocessing.get_context("fork").Process(target=train)
    study.start()
    launchers = [folder / f"{rank}.launcher" for rank in range(2)]
    for _ in range(300):
        if all(file.is_file() and file.read_text() for file in launchers):
            break
        time.sleep(0.05)
    os.kill(study.pid if killed == "study" else int(launchers[0].read_text()), signal.SIGKILL)
    wait_until_free(folder)
    assert [(folder / f"{rank}.saved").read_text() for rank in range(2)] == [str(int(signal.SIGTERM))] * 2
    study.join(10)
    assert study.exitcode == (-signal.SIGKILL if killed == "study" else 0)


def test_the_end_of_its_time_stops_a_training(tmp_path):
    with only_one(tmp_path) as lock:
        command = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
        ticks = []

        def tick():
            ticks.append(last_words(tmp_path / "console.log"))

        limit = time.monotonic() + 0.5
        ended = run_process(command, tmp_path / "console.log", lock, tick, limit, pause=0.1)
    assert ended == (-signal.SIGTERM, signal.SIGTERM)
    assert ticks[-1] == "here"


def test_a_best_checkpoint_has_to_be_kept(folder, start, finish):
    study = yaml.safe_load((folder / "toy.yaml").read_text())
    (folder / "toy.yaml").write_text(yaml.safe_dump(dict(study, checkpoint="best"), sort_keys=False))
    code, begun, said = finish(start())
    assert (code, begun) == (2, [])
    assert "toy.py keeps no checkpoint of the best mIoU; set default_hooks.checkpoint.save_best='mIoU'" in said


def test_published_figures_are_not_given_another_name(folder, start, finish):
    finish(start())
    before, study = summary(folder), yaml.safe_load((folder / "toy.yaml").read_text())
    for changes, says in (
        (dict(checkpoint="best"), "mIoU val best checkpoint on val"),
        (dict(metric="mAcc"), "mAcc val final checkpoint on val"),
        (dict(splits=["val", "test"]), "mIoU val final checkpoint on val, test"),
    ):
        (folder / "toy.yaml").write_text(yaml.safe_dump({**study, **changes}, sort_keys=False))
        code, begun, said = finish(start())
        assert (code, begun, summary(folder)) == (2, [], before)
        assert "seed0 was published as mIoU val final checkpoint on val; " in said
        assert f"toy.yaml says {says}; remove the folder, and it is evaluated anew" in said


def test_a_later_start_adds_its_commit_and_machine(folder, start, finish):
    finish(start("--kill-parent-at", "3"))
    wait_until_free(folder)
    file = folder / "work/toy/hybrid/seed0/study.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(dict(state, commit="older", machine="another, 1 core")))
    assert not (folder / "work/toy/cnn/seed0/study.json").exists()  # whose training has not begun
    finish(start())
    metrics = json.loads((folder / "results/toy/hybrid/seed0/metrics.json").read_text())
    assert metrics["commit"] == f"older; {state['commit']}"
    assert metrics["machine"] == f"another, 1 core; {state['machine']}"


def test_an_evaluation_ends_with_its_study(tmp_path):
    def study():
        in_own_process(tmp_path / "log", sleep_and_tell, tmp_path / "pid")

    process = multiprocessing.get_context("fork").Process(target=study)
    process.start()
    for _ in range(600):
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    process.kill()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            return
        time.sleep(0.05)
    raise AssertionError("an evaluation runs on without its study")


def sleep_and_tell(file):
    file.write_text(str(os.getpid()))
    time.sleep(60)


def test_more_processes_than_gpus_are_refused_before_anything_is_trained(folder, monkeypatch):
    study = yaml.safe_load((folder / "toy.yaml").read_text())
    (folder / "toy.yaml").write_text(yaml.safe_dump(dict(study, processes=4), sort_keys=False))
    plan = read_plan(folder / "toy.yaml")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(CommandError, match=r"toy\.yaml has processes: 4, each on a GPU; there: 2"):
        Study(plan, plan.runs(), folder / "results", folder / "work").train(0, None)
    assert not (folder / "work").exists()


def test_a_figure_in_percent_that_is_taken_for_a_share_is_noticed(folder, start, finish):
    study = yaml.safe_load((folder / "toy.yaml").read_text())
    (folder / "toy.yaml").write_text(yaml.safe_dump(dict(study, percent=False), sort_keys=False))
    code, _, said = finish(start())
    assert code == 2
    assert "mIoU is 50, and 0.5 by its images; percent: true in" in said


def test_a_further_figure_is_a_mean_over_seeds_and_one_that_nobody_gives_is_named(folder, start, finish):
    study = yaml.safe_load((folder / "toy.yaml").read_text())
    (folder / "toy.yaml").write_text(yaml.safe_dump(dict(study, also=["mIoU"], seeds=[0]), sort_keys=False))
    assert finish(start())[0] == 0
    for entry in summary(folder).values():
        assert entry["also"] == dict(mIoU=entry["metric"])
    (folder / "toy.yaml").write_text(yaml.safe_dump(dict(study, also=["PQ"]), sort_keys=False))
    code, begun, said = finish(start())
    assert (code, begun) == (2, [])
    assert f"the evaluator gives no 'PQ', which {folder}/toy.yaml names under also: mIoU" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.yaml"], "no such study: none.yaml; there are toy.yaml"),
        (["toy.yaml", "--only", "vit"], "toy has no model 'vit'; there are hybrid, cnn"),
        (["toy.yaml", "--robustness"], "no run of toy is done; train first"),
    ],
)
def test_the_command_names_mistakes_in_one_line(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder)
    assert main(["study", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_studies_of_two_tasks_do_not_lose_each_others_figures(folder, start, finish):
    results = folder / "results"
    assert finish(start())[0] == 0
    plan = read_plan(folder / "toy.yaml")
    with locked(results):
        other = threading.Thread(target=sum_up, args=(plan, results))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        content = {"elsewhere": {}, **json.loads((results / "results.json").read_text())}
        (results / "results.json").write_text(json.dumps(content))
    other.join(30)
    assert set(json.loads((results / "results.json").read_text())) == {"toy", "elsewhere"}
