"""The Slurm scripts, with programs of Slurm's names in its place: what they ask for and what exit codes become."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TOOLS = PROJECT / "tools"

# Runs the command after its own options once a rank and, as the real one, reports the highest exit code.
SRUN = """
asked=
while [ "$1" != bash ]; do asked="$asked $1"; shift; done
echo $asked >> $LOG/srun
for rank in 0 1; do
    SLURM_PROCID=$rank "$@" &
    pids="$pids $!"
done
if [ -n "${SIGNAL:-}" ]; then  # as --signal does: to everything in the step
    while [ "$(ls $LOG | grep -c ready)" -lt 2 ]; do sleep 0.05; done
    for pid in $pids; do kill -$SIGNAL $pid $(pgrep -P $pid); done
fi
highest=0
for pid in $pids; do
    code=0; wait $pid || code=$?
    [ $code -le $highest ] || highest=$code
done
exit $highest
"""
SBATCH = 'echo "$@" >> $LOG/sbatch\nfor argument; do last=$argument; done\necho "${last#--wrap=}" > $LOG/wrapped'
SCONTROL = 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "$@" >> $LOG/scontrol; fi'
# The training: ends with the exit code that its rank and its start are to have.
TRAINING = """
import os, pathlib, signal, sys, time
log, rank = pathlib.Path(os.environ["LOG"]), int(os.environ["SLURM_PROCID"])
starts = log / f"starts{rank}"
before = starts.read_text().count("\\n") if starts.exists() else 0
with starts.open("a") as file:
    print(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], os.environ.get("HYBRID_DENSE_RESTARTED"), *sys.argv[2:],
          file=file)
if "SIGNAL" in os.environ:
    received = []
    signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    (log / f"ready{rank}").touch()
    while not received:
        time.sleep(0.02)
    time.sleep(0.3)
    (log / f"saved{rank}").touch()
codes = os.environ["CODES"].split(";")[before].split()
sys.exit(int(codes[rank]))
"""


@pytest.fixture
def slurm(tmp_path):
    """Call a script of tools/ with a Slurm whose programs write down their arguments in the returned folder."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    log.mkdir()
    programs.mkdir()
    (tmp_path / "training.py").write_text(TRAINING)
    fake_python = f'shift 1; exec {sys.executable} {tmp_path}/training.py "$@"'
    for name, body in dict(srun=SRUN, sbatch=SBATCH, scontrol=SCONTROL, python=fake_python).items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755 | stat.S_IXUSR)

    def call(script: str, *arguments: str, **environment: str):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        clean.update(PATH=f"{programs}:{clean['PATH']}", LOG=str(log), PYTHON=str(programs / "python"))
        clean.update(SLURM_JOB_NODELIST="node-[a-b]", GPUS="2")
        done = subprocess.run(
            [TOOLS / script, *arguments], env={**clean, **environment}, capture_output=True, text=True, timeout=60
        )
        return done, log

    return call


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_training_is_submitted_so_that_it_can_be_requeued(slurm):
    done, log = slurm("slurm_train.sh", "gpu", "my job", "a b.py", "--seed", "1", SBATCH_ARGS="--time=24:00:00")
    assert done.returncode == 0, done.stderr
    (asked,) = lines(log / "sbatch")
    for option in ("--requeue", "--signal=USR1@120", "--open-mode=append", "--time=24:00:00", "-p gpu", "--ntasks=2"):
        assert option in asked
    (wrapped,) = lines(log / "wrapped")
    script = str(TOOLS / "slurm_launch.sh")
    assert shlex.split(wrapped) == [script, "train", "gpu", "my job", "a b.py", "--seed", "1"]
    assert not (log / "srun").exists()


def test_inside_the_job_every_rank_is_started_with_the_first_nodes_address(slurm):
    done, log = slurm("slurm_launch.sh", "train", "gpu", "job", "a b.py", SLURM_JOB_ID="7", CODES="0 0", PORT="29511")
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert lines(log / f"starts{rank}") == ["node-a 29511 None a b.py --launcher slurm"]
    assert "--kill-on-bad-exit=1" in lines(log / "srun")[0] and not (log / "scontrol").exists()


def test_a_training_that_stopped_on_a_signal_goes_back_into_the_queue(slurm):
    job = dict(SLURM_JOB_ID="7", CODES="143 143", SIGNAL="USR1")
    done, log = slurm("slurm_launch.sh", "train", "gpu", "job", "a.py", **job)
    assert done.returncode == 143, done.stderr
    # The shells around the ranks got the signal too, and waited for them.
    assert all((log / f"saved{rank}").exists() for rank in (0, 1))
    assert lines(log / "scontrol") == ["requeue 7"]
    assert len(lines(log / "starts0")) == 1


@pytest.mark.parametrize(
    ("codes", "restarts", "exit_code", "starts"),
    [
        ("1 137;0 0", "3", 0, 2),  # one killed, the other lost it: once more
        ("1 137;1 1;1 143", "2", 1, 3),  # as often as allowed
        ("2 137", "3", 2, 1),  # a mistake, and one that Slurm ended for it: never again
        ("2 143", "3", 2, 1),
        ("3 3", "3", 3, 1),
        ("74 74", "3", 74, 1),
        ("130 143", "3", 130, 1),  # Ctrl-C
    ],
)
def test_only_what_a_restart_can_mend_is_started_again(slurm, codes, restarts, exit_code, starts):
    job = dict(SLURM_JOB_ID="7", CODES=codes, MAX_RESTARTS=restarts)
    done, log = slurm("slurm_launch.sh", "train", "gpu", "job", "a.py", **job)
    assert done.returncode == exit_code, done.stderr
    told = [line.split()[2] for line in lines(log / "starts0")]
    assert told == ["None", *["1"] * (starts - 1)]
    assert not (log / "scontrol").exists()


def test_a_test_runs_in_the_terminal_and_once(slurm):
    done, log = slurm("slurm_test.sh", "gpu", "job", "a.py", "a.pth", CODES="1 1", SRUN_ARGS="--qos=low")
    assert done.returncode == 1
    (asked,) = lines(log / "srun")
    assert asked.startswith("-p gpu --job-name=job") and "--qos=low" in asked
    assert len(lines(log / "starts0")) == 1 and not (log / "sbatch").exists()


def test_without_slurm_the_scripts_name_those_that_work():
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [TOOLS / "slurm_train.sh", "gpu", "job", "a.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "without Slurm use tools/dist_train.sh" in done.stderr
