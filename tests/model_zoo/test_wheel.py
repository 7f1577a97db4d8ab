"""A wheel of the package holds the shipped weights and their cards."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_holds_weights_and_cards(tmp_path):
    source = tmp_path / "source"  # building writes beside what it builds
    for name in ("hybrid_dense", "requirements"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    for suffix in (".safetensors", ".json"):
        (source / f"hybrid_dense/model_zoo/made_up{suffix}").write_text("{}")
    here = {file.name for file in (source / "hybrid_dense/model_zoo").iterdir()}
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    assert {name.name for name in names if name.parent == Path("hybrid_dense/model_zoo")} == here


def test_git_keeps_weights_and_cards():
    files = [f"hybrid_dense/model_zoo/made_up{suffix}" for suffix in (".safetensors", ".json")]
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=PROJECT, capture_output=True, text=True)
    assert ignored.stdout == ""
