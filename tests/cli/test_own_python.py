"""The scripts of tools/ are started as they are, by whichever Python is first: they find the one of `make setup`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def project(tmp_path) -> Path:
    """The tools in a project that has no .venv."""
    shutil.copytree(TOOLS, tmp_path / "project/tools")
    return tmp_path / "project"


def start(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    """By a Python without installed packages."""
    return subprocess.run([sys.executable, "-S", script, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("tool", ["train", "test"])
def test_goes_on_in_the_python_of_the_project(project, tool):
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    python.chmod(0o755)
    script = project / f"tools/{tool}.py"
    done = start(script, "config.py", "two words")
    assert (done.returncode, done.stdout) == (0, f"{script}|config.py|two words|"), done.stderr


def test_without_it_one_line_says_what_makes_it(project):
    done = start(project / "tools/test.py", "config.py")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "has no hybrid_dense; `make setup` makes a Python that has it" in done.stderr


def test_can_be_executed():
    assert os.access(TOOLS / "train.py", os.X_OK)
    done = subprocess.run([TOOLS / "test.py", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage: hybrid-dense test" in done.stdout, done.stderr
