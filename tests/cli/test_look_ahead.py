"""`train --auto-batch` and `--find-lr`, and a training with most switches on, as a user runs them."""

import json
import re

import pytest
import torch
from mmengine.config import Config
from small_demo import DEMO, SMALL

from hybrid_dense.cli import CommandError, look_ahead
from hybrid_dense.engine.auto_batch import BatchSearch, Trial
from hybrid_dense.engine.find_lr import Sweep


def test_a_training_with_switches_says_so_and_saves_it(command, tmp_path):
    switches = ["--amp", "fp16", "--accumulate", "2", "--ema", "0.5", "--checkpointing", "--epochs", "1"]
    done = command("train", DEMO, "--work-dir", tmp_path, *switches, "--cfg-options", *SMALL, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("training on cpu"))
    assert re.search(
        r": float(16|32 \(cpu without native float16\)), 1 process × 2 images × 2 accumulated = 4 images a", line
    )
    assert line.endswith("compile off, checkpointing on, EMA on")
    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert saved["optimizer"]["loss_scaler"]["scale"] > 0
    # Two steps of the optimizer in four iterations.
    assert {int(state["step"]) for state in saved["optimizer"]["state"].values()} == {2}
    trained = {name.removeprefix("module."): value for name, value in saved["ema_state_dict"].items()}
    assert any(not torch.equal(averaged, trained[name]) for name, averaged in saved["state_dict"].items())


@pytest.mark.slow
def test_the_largest_batch_is_found_and_trained_with(command, tmp_path):
    arguments = ["--work-dir", tmp_path, "--auto-batch", "--epochs", "1", "--cfg-options", *SMALL]
    done = command("train", DEMO, *arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "auto_batch.json").read_text())["batch"] == 8
    assert re.search(r"│\s+4 │\s+\d\.\d\d │ yes", done.stdout)
    assert "batch 8 a process: all images there are, and they fit into" in done.stdout
    assert "learning rate 0.0015, whatever the batch is" in done.stdout
    assert torch.load(tmp_path / "epoch_1.pth", weights_only=False)["meta"]["iter"] == 1


@pytest.mark.slow
def test_the_sweep_is_drawn_and_nothing_is_trained(command, tmp_path):
    arguments = ["--work-dir", tmp_path, "--find-lr", "--cfg-options", *SMALL]
    done = command("train", DEMO, *arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lr_sweep.json", "lr_sweep.png"]
    found = json.loads((tmp_path / "lr_sweep.json").read_text())
    assert 1e-6 < found["steepest"] < found["rates"][-1] and found["rates"][0] == pytest.approx(1e-7)
    assert f"--cfg-options optim_wrapper.optimizer.lr={found['tenth_of_minimum']:.2g}" in done.stdout


def config(folder, **changes):
    optimizer = dict(type="AdamW", lr=1e-4)
    return Config(
        dict(
            work_dir=str(folder),
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(optimizer=optimizer),
            **changes,
        )
    )


@pytest.fixture
def found(monkeypatch):
    """A search that is over at once, and the list of the searches."""
    searches = []
    trials = (Trial(1, 2**30), Trial(2, 2 * 2**30), Trial(4, None))

    def find(*arguments):
        searches.append(arguments)
        return BatchSearch(3, trials, int(3.4 * 2**30), 100, (800, 1333), extrapolated=False)

    monkeypatch.setattr(look_ahead, "find_batch", find)
    monkeypatch.setattr(look_ahead, "check_data", lambda cfg, splits: None)
    return searches


def test_the_batch_is_set_and_the_rate_that_follows_is_said(found, tmp_path, capsys):
    cfg = config(tmp_path / "run", auto_scale_lr=dict(enable=True, base_batch_size=16))
    look_ahead.choose_batch(cfg)
    printed = capsys.readouterr().out
    assert cfg.train_dataloader.batch_size == 3
    assert re.search(r"│\s+2 │\s+2\.00 │ yes", printed) and re.search(r"│\s+4 │\s+– │ no", printed)
    assert "batch 3 a process: the most that fits into 3.40 GiB, with 15% of the memory kept free\n" in printed
    assert "learning rate 1.88e-05: 0.0001 × 3 / 16 images a step (auto_scale_lr)" in printed


def test_where_nothing_is_trained_no_batch_is_written_down(found, tmp_path):
    cfg = config(tmp_path / "run")
    look_ahead.choose_batch(cfg, keep=False)
    assert cfg.train_dataloader.batch_size == 3 and not (tmp_path / "run").exists()


def test_a_training_that_goes_on_keeps_its_batch(found, tmp_path, capsys):
    look_ahead.choose_batch(config(tmp_path))
    cfg = config(tmp_path, resume=True)
    look_ahead.choose_batch(cfg)
    assert len(found) == 1 and cfg.train_dataloader.batch_size == 3
    assert "batch 3, as --auto-batch chose when this training began" in capsys.readouterr().out


def test_a_training_that_began_with_a_batch_of_its_own_does_not_change_it(found, tmp_path):
    with pytest.raises(CommandError, match="did not choose the batch of .*; to go on, leave it out"):
        look_ahead.choose_batch(config(tmp_path, resume=True))


RATES = tuple(10 ** (-6 + place / 10) for place in range(60))


def test_the_report_suggests_what_to_write_into_the_config(tmp_path):
    losses = tuple(4 / (1 + 10 * rate**0.5) if rate < 0.2 else 9.0 for rate in RATES)
    sweep = Sweep(RATES, losses, losses, exploded=True)
    cfg = config(tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=8))
    text = look_ahead.report_sweep(cfg, sweep)
    # Two images where the rate is meant for eight: four times the rate has to stand in the config.
    assert f"--cfg-options optim_wrapper.optimizer.lr={4 * sweep.tenth:.2g} ({sweep.tenth:.2g} after auto_sc" in text
    assert (tmp_path / "lr_sweep.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "lr_sweep.json").read_text()) == json.loads(json.dumps(sweep.to_dict()))


def test_a_loss_that_never_falls_suggests_nothing(tmp_path):
    losses = tuple(float(place) for place in range(60))
    text = look_ahead.report_sweep(config(tmp_path), Sweep(RATES, losses, losses, exploded=False))
    assert text.endswith("the loss never falls: look at the data, or try another batch")
