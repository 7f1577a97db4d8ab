"""What tests share: real data if there is any, small scenes, and the commands as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; tests that need it are skipped without."""
    root = os.environ.get("HYBRID_DENSE_DATA")
    if not root:
        pytest.skip("HYBRID_DENSE_DATA is not set: no real data")
    return Path(root)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A few small scenes in the COCO layout."""
    from hybrid_dense.data.scenes import write_scenes

    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=8, val=4, size=96, seed=0)


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """Run `hybrid-dense …` or a script of tools/ in a process of its own, in an empty folder; returns what it did."""
    folder = tmp_path_factory.mktemp("commands")
    defaults = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "HYBRID_DENSE_CACHE": str(folder / "cache")}

    def call(*arguments, timeout: float = 300, **environment) -> subprocess.CompletedProcess:
        first = str(arguments[0])
        script = [str(PROJECT / first)] if first.startswith("tools/") else [sys.executable, "-m", "hybrid_dense", first]
        if first.endswith(".py"):
            script.insert(0, sys.executable)
        return subprocess.run(
            [*script, *map(str, arguments[1:])],
            cwd=folder,
            env={**os.environ, **defaults, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The models of the tests are too small to share out; threads that wait for each other only slow them down."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def pad_with_noise(monkeypatch):
    """Call it, and from then on `F.pad` fills up tensors, masks excepted, with 1e4; it returns the list of paddings."""
    import torch
    import torch.nn.functional as F

    pad, padded = F.pad, []

    def noisy(tensor, amounts, *rest, **keywords):
        if tensor.dtype == torch.bool:
            return pad(tensor, amounts, *rest, **keywords)
        padded.append(amounts)
        return pad(tensor, amounts, value=1e4)

    def arm() -> list:
        monkeypatch.setattr(F, "pad", noisy)
        return padded

    return arm


@pytest.fixture
def in_two_processes(tmp_path):
    """Run a test file as a program in two gloo processes, with the test's folder as its argument."""

    def run(program: str) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [*launcher, program, tmp_path], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
