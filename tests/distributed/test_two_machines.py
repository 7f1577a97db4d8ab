"""A rank on one of two "machines" is killed: the group starts again, and the training ends as if nothing had been."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_demo import DEMO, SMALL

from hybrid_dense.engine.checkpoint import load_state_dict

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_rank_on_one_of_two_machines_costs_nothing_but_time(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    script, config = PROJECT / "tests/distributed/two_machines.sh", DEMO
    options = ("--cfg-options", *SMALL, "train_cfg.max_epochs=8", "default_hooks.logger.interval=1")
    done = subprocess.run(
        [script, tmp_path / "killed", config, *options], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    logs = [(tmp_path / f"killed/machine{number}.log").read_text() for number in (0, 1)]
    assert done.returncode == 0, done.stderr + "".join(log[-3000:] for log in logs)
    assert re.search(r"killed rank process \d+ on machine 1, with epoch_\d\.pth as the last checkpoint", done.stdout)

    text = "".join(logs)
    resumed = int(re.search(r"resumed epoch: (\d+), iter: \d+", text)[1])
    before, after = text.split("resumed epoch", 1)
    assert 1 <= resumed < 8 and "Epoch(train)" in before
    assert int(re.search(r"Epoch\(train\)\s+\[(\d+)\]", after)[1]) == resumed + 1

    # On one machine, and never interrupted.
    whole = ("--work-dir", tmp_path / "whole")
    done = command("tools/dist_train.sh", config, 2, *whole, *options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (load_state_dict(tmp_path / name / "epoch_8.pth") for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    assert not [name for name, value in expected.items() if not value.equal(found[name])]
