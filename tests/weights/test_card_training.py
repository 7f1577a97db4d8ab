"""The card of a study's run says how it was trained; averaged weights of a real training are the ones exported."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from hybrid_dense.cli import main
from hybrid_dense.engine.checkpoint import read_checkpoint
from hybrid_dense.inference import Predictor
from hybrid_dense.model_card import read_card
from hybrid_dense.weights.export import export
from hybrid_dense.weights.training import read_measured

PROJECT = Path(__file__).parents[2]
WATCHED = "decode_head.conv_seg.weight"
CONFIG = PROJECT / "configs/demo_semantic.py"
RUN = dict(model="hybrid", seed=3, metric=0.6123, metric_name="mIoU", split="val", params=1, epochs=90, iterations=9000)
RUN |= dict(train_minutes=41.2, commit="abc123", machine="a CPU, 2 cores", fingerprint="f", checkpoint="final")
RUN |= dict(figures=dict(val=dict(mIoU=61.23, aAcc=90.1)), curve=[[1, 2, 3]])


@pytest.fixture(autouse=True)
def errors_in_full(monkeypatch):
    """Commands raise what they would print."""
    monkeypatch.setenv("HYBRID_DENSE_TRACEBACK", "1")


class Watch(Hook):
    """Keeps a parameter as it is after each step."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, *_, **__):
        self.values.append(runner.model.state_dict()[WATCHED].clone())


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> tuple[Path, list[torch.Tensor]]:
    """A real training of two steps with mmengine's EMAHook, through our engine; its seed is 3.

    Returns:
        Its checkpoint, and what one parameter was after each step.
    """
    from hybrid_dense.cli.session import build_runner, load_config
    from hybrid_dense.engine.equip import equip

    folder = tmp_path_factory.mktemp("run")
    options = ["scenes.train=4", "scenes.val=2", "scenes.size=64", "train_dataloader.batch_size=2"]
    for split in ("train", "val", "test"):
        options += [f"{split}_dataloader.num_workers=0", f"{split}_dataloader.persistent_workers=False"]
    options += ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "optim_wrapper.optimizer.lr=0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_DENSE_CACHE", str(folder / "cache"))
        cfg = equip(load_config(Namespace(config=CONFIG, cfg_options=options, work_dir=folder / "work", amp="fp32")))
        average = dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.002, gamma=10, update_buffers=True)
        cfg.custom_hooks = [*cfg.custom_hooks, average]
        cfg.randomness = dict(seed=3)
        cfg.experiment_name = "test_card_training"
        runner, watch = build_runner(cfg, ("train", "val")), Watch()
        runner.register_hook(watch)
        runner.train()
    return folder / "work/epoch_1.pth", watch.values


@pytest.fixture
def trained(training) -> Path:
    return training[0]


@pytest.fixture
def run_file(tmp_path) -> Path:
    """The `metrics.json` of a run as a study publishes it, with the summary above it."""
    file = tmp_path / "results/camvid/hybrid/seed3/metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(RUN))
    summary = dict(camvid=dict(hybrid=dict(study="configs/results/camvid.yaml")))
    (tmp_path / "results/results.json").write_text(json.dumps(summary))
    return file


def test_a_checkpoint_holds_the_average_as_the_model(training):
    path, (first, last) = training
    content = torch.load(path, weights_only=False)
    # The average begins as a copy; its second step has the annealed momentum gamma / (gamma + 1).
    averaged = torch.lerp(first, last, 10 / 11)
    assert not torch.allclose(averaged, last, rtol=0, atol=1e-5)
    torch.testing.assert_close(content["state_dict"][WATCHED], averaged)
    torch.testing.assert_close(content["ema_state_dict"][f"module.{WATCHED}"], last)
    for ema in (False, True):
        found = read_checkpoint(path, ema=ema)
        assert found.averaged and torch.equal(found.weights[WATCHED], content["state_dict"][WATCHED])


def test_export_test_and_predictor_take_the_average(trained, tmp_path):
    content = torch.load(trained, weights_only=False)
    for ema in (False, True):
        card = export(trained, CONFIG, tmp_path / "model.safetensors", ema=ema)
        assert card.source["averaged"]
        weights = read_checkpoint(tmp_path / "model.safetensors").weights
        assert all(torch.equal(weights[name], value) for name, value in content["state_dict"].items())
    predictor = Predictor(CONFIG, trained, device="cpu", fold=False)
    averaged = content["state_dict"][WATCHED]
    assert torch.equal(predictor.model.decode_head.conv_seg.weight, averaged)


def test_the_study_evaluates_the_average(trained, tmp_path, monkeypatch):
    """Its config has the hook, which exchanges model and average around every test."""
    from hybrid_dense.cli import evaluation_run

    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(tmp_path))
    config = tmp_path / "config.py"
    average = 'dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.002, gamma=10, update_buffers=True)'
    config.write_text(f"_base_ = '{CONFIG}'\ncustom_hooks = [*_base_.custom_hooks, {average}]\n")
    options = ("scenes.train=4", "scenes.val=2", "scenes.size=64", "test_dataloader.num_workers=0")
    options += ("test_dataloader.persistent_workers=False",)
    subject = evaluation_run.Subject(config, options, trained, tmp_path / "work")
    cfg = evaluation_run._load(subject)
    runner = evaluation_run._build(cfg, subject)
    seen = []
    runner.model.register_forward_hook(lambda model, *_: seen.append(model.decode_head.conv_seg.weight.clone()))
    runner.test()
    averaged = read_checkpoint(trained).weights[WATCHED]
    assert seen and all(torch.equal(weight, averaged) for weight in seen)


def test_the_card_of_a_studys_run(trained, run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    out = tmp_path / "model.safetensors"
    said = dict(data="CamVid, 367 images", licence="Apache-2.0", limits="daylight only")
    words = [word for name, text in said.items() for word in (f"--{name}", text)]
    arguments = [str(trained), "--config", "configs/demo_semantic.py", "--metrics", str(run_file), "-o", str(out)]
    assert main(["weights", "export", *arguments, *words]) == 0
    card = read_card(read_checkpoint(out).meta["card"], out)
    assert card.score == dict(name="mIoU", split="val", value=0.6123)
    assert card.metrics == RUN["figures"]
    assert card.training == dict(
        config="configs/demo_semantic.py",
        command="hybrid-dense study configs/results/camvid.yaml --only hybrid --seeds 3",
        seed=3,
        commit="abc123",
        machine="a CPU, 2 cores",
        epochs=90,
        iterations=9000,
        minutes=41.2,
    )
    assert {name: getattr(card, name) for name in said} == said


def test_what_is_exported_again_keeps_its_card(trained, run_file, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    said = dict(data="CamVid, 367 images", licence="Apache-2.0", limits="daylight only")
    card = export(trained, CONFIG, first, metrics=run_file, **said)
    again = export(first, CONFIG, second, half=True, licence="MIT")
    assert again.licence == "MIT" and again.dtype == "float16" and again.source["averaged"]
    for name in ("metrics", "metrics_from", "score", "training", "data", "limits"):
        assert getattr(again, name) == getattr(card, name)


def test_outside_of_a_study_the_card_says_config_and_seed(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = export(trained, CONFIG, tmp_path / "model.safetensors", metrics=None)
    assert card.training == dict(config="demo_semantic.py", seed=3)  # a path of this machine says nothing elsewhere
    assert card.score == {} and "mIoU" in card.metrics  # of the validation, beside the checkpoint


def test_the_figures_of_another_run_are_refused(trained, run_file, tmp_path):
    run_file.write_text(json.dumps(RUN | dict(seed=4)))
    with pytest.raises(ValueError, match=r"metrics\.json is of seed 4, .*epoch_1\.pth of seed 3; name the file of its"):
        export(trained, CONFIG, tmp_path / "model.safetensors", metrics=run_file)
    (tmp_path / "results/results.json").unlink()
    run_file.write_text(json.dumps(RUN))
    with pytest.raises(ValueError, match="results does not sum up camvid, hybrid"):
        export(trained, CONFIG, tmp_path / "model.safetensors", metrics=run_file)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("content", ["[0.5]", "0.5", "null"])
def test_figures_without_names_are_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json holds no figures by name"):
        read_measured(tmp_path / "epoch_1.pth", None)


def test_a_studys_figures_in_another_place_are_refused_in_one_line(monkeypatch):
    # Near the root, where no folder above can be a study's.
    monkeypatch.setattr(Path, "read_text", lambda path: json.dumps(RUN))
    with pytest.raises(ValueError, match=r"^/ does not sum up , hybrid; keep metrics\.json where study wrote it"):
        read_measured(Path("epoch_1.pth"), Path("/metrics.json"))
