"""The printed command is the one that was called, less what a launcher added, with --resume auto."""

import shlex
from pathlib import Path

import pytest

from hybrid_dense.engine.resume_command import resume_command

PROJECT = Path(__file__).parents[2]
TRAIN = str(PROJECT / "tools/train.py")
TORCHRUN = dict(TORCHELASTIC_RUN_ID="hybrid_dense", LOCAL_WORLD_SIZE="8", MASTER_ADDR="127.0.0.1", MASTER_PORT="4242")
SLURM = dict(SLURM_NTASKS="16", SLURM_NTASKS_PER_NODE="8", SLURM_JOB_PARTITION="gpu", SLURM_JOB_NAME="my job")


@pytest.mark.parametrize(
    ("called", "environment", "expected"),
    [
        ("hybrid-dense train c.py", {}, "hybrid-dense train c.py --resume auto"),
        (
            "hybrid-dense train 'my configs/c.py' --seed 1",
            {},
            "hybrid-dense train 'my configs/c.py' --seed 1 --resume auto",
        ),
        ("hybrid-dense train c.py --resume", {}, "hybrid-dense train c.py --resume auto"),
        ("hybrid-dense train c.py --resume a.pth --seed 1", {}, "hybrid-dense train c.py --seed 1 --resume auto"),
        ("hybrid-dense train c.py --resume=a.pth", {}, "hybrid-dense train c.py --resume auto"),
        ("hybrid-dense train --resume a.pth c.py", {}, "hybrid-dense train c.py --resume auto"),
        (f"{PROJECT}/hybrid_dense/__main__.py train c.py", {}, "python -m hybrid_dense train c.py --resume auto"),
        (f"{TRAIN} c.py --amp", {}, "python tools/train.py c.py --amp --resume auto"),
        (
            f"{TRAIN} c.py --resume --cfg-options a.b='x y' --launcher pytorch",
            TORCHRUN,
            "tools/dist_train.sh c.py 8 --cfg-options 'a.b=x y' --resume auto",
        ),
        (
            f"{TRAIN} c.py --local-rank=3 --launcher=pytorch",
            dict(TORCHRUN, NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", PORT="29500"),
            "NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh c.py 8 --resume auto",
        ),
        (
            f"{TRAIN} c.py --launcher slurm --seed 3",
            SLURM,
            "GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh gpu 'my job' c.py --seed 3 --resume auto",
        ),
        ("hybrid-dense demo --epochs 3", {}, "python -m hybrid_dense train work_dirs/demo/demo.py --resume auto"),
        (
            f"{PROJECT}/hybrid_dense/__main__.py demo --launcher=pytorch",
            dict(TORCHRUN, LOCAL_WORLD_SIZE="2"),
            "tools/dist_train.sh work_dirs/demo/demo.py 2 --resume auto",
        ),
        ("my_script.py", {}, "python -m hybrid_dense train work_dirs/demo/demo.py --resume auto"),
    ],
)
def test_commands(monkeypatch, called, environment, expected):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    dumped = PROJECT / "work_dirs/demo/demo.py"
    assert resume_command(dumped, shlex.split(called), environment) == expected


def test_an_installed_command_that_is_not_on_the_path_is_named_in_full(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    called = ["/opt/venv/bin/hybrid-dense", "train", "c.py"]
    assert resume_command(None, called, {}) == "/opt/venv/bin/hybrid-dense train c.py --resume auto"


def test_it_speaks_of_this_process_by_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/train.py", "c.py"])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert resume_command() == "python tools/train.py c.py --resume auto"
