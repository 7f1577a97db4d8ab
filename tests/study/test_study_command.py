"""A study of real trainings, from its YAML file to results.json and the corruption table."""

import json
import re

import numpy as np
import pytest
import yaml
from small_demo import DEMO, SMALL

from hybrid_dense.study.scores import load_scores

SEMANTIC = DEMO.with_name("demo_semantic.py")
CNN = {"model.backbone.type": "PlainResNeXt"}
OPTIONS = [*SMALL, "train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.logger.interval=2"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write the study, with changes."""
    folder = tmp_path_factory.mktemp("study")

    def call(**changes):
        models = dict(hybrid=str(SEMANTIC), cnn=dict(config=str(SEMANTIC), options=CNN))
        content = dict(task="scenes", metric="mIoU", percent=True, seeds=[0, 1], models=models)
        (folder / "scenes.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return folder

    return call


@pytest.mark.slow
def test_two_models_and_two_seeds(command, study):
    folder = study(metric="mIou")
    words = ["study", folder / "scenes.yaml", "--results", folder / "results", "--work-dir", folder / "work"]
    options = ["--cfg-options", *(option for option in OPTIONS if not option.startswith("train_cfg.val_interval=100"))]
    done = command(*words, *options)
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert "has no figure 'mIou'; its evaluator gives mIoU, " in error

    folder = study()
    done = command(*words, "--dry-run", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "0: waits" in done.stdout
    done = command(*words, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "results/results.json").read_text())["scenes"]
    assert found["hybrid"]["params"] > found["cnn"]["params"] > 0
    for name, model in found.items():
        assert model["seeds"] == [0, 1]
        assert model["epochs"] == 1
        assert model["metric"] == pytest.approx(np.mean(model["metrics"]), abs=1e-6)
        for seed, value in enumerate(model["metrics"]):
            published = folder / f"results/scenes/{name}/seed{seed}"
            scores = load_scores(published / "per_image.npz")["val"]
            assert scores.images == 4
            assert float(scores.measure(np.ones((1, 4)))[0]) == pytest.approx(value, abs=1e-4)
            assert f"seed: {seed}\n" in (published / "log.txt").read_text()
            assert str(folder) not in (published / "log.txt").read_text() + (published / "config.py").read_text()
    done = command(*words, "--dry-run", *options)
    assert done.stdout.count("done") == 4

    done = command(*words, "--robustness", "--only", "cnn", "--seeds", "0", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads((folder / "results/scenes/robustness.json").read_text())["cnn"]
    assert table["clean"] == found["cnn"]["metrics"][0]
    assert [len(values) for values in table["corruptions"].values()] == [5] * 5
    assert re.search(r"│ cnn +│ +all │", done.stdout)


@pytest.mark.slow
def test_robustness_of_one_checkpoint(command, tmp_path):
    done = command("train", SEMANTIC, "--work-dir", tmp_path, "--cfg-options", *OPTIONS)
    assert done.returncode == 0, done.stderr[-3000:]
    words = ["robustness", SEMANTIC, tmp_path / "epoch_1.pth", "--work-dir", tmp_path / "worse"]
    done = command(*words, "--corruptions", "noise", "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "noise" in done.stdout
    assert json.loads((tmp_path / "worse/robustness.json").read_text())["corruptions"].keys() == {"noise"}
    for wrong, said in (
        (["--corruptions", "fog"], "--corruptions fog is none of noise, blur, brightness, jpeg, shift"),
        (["--metric", "AP", "--corruptions", "blur"], "has no figure 'AP'; its evaluator gives mIoU, "),
    ):
        done = command(*words, *wrong, "--cfg-options", *SMALL)
        assert done.returncode == 2
        assert said in done.stderr.strip().splitlines()[-1]
