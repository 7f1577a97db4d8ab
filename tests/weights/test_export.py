"""An exported model is its checkpoint in one file: the same predictions, no config, nothing that runs."""

import json
import shutil
from datetime import date
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hybrid_dense
from hybrid_dense.cli import main
from hybrid_dense.engine.checkpoint import CARD_KEY, read_checkpoint
from hybrid_dense.inference import Predictor
from hybrid_dense.model_card import find_test_dataset, read_card, used_parts
from hybrid_dense.weights.export import export

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES = ("disk", "square", "triangle", "star", "ring", "cross")


@pytest.fixture(autouse=True)
def errors_in_full(monkeypatch):
    """Commands raise what they would print."""
    monkeypatch.setenv("HYBRID_DENSE_TRACEBACK", "1")


def train(name: str, folder: Path) -> tuple[Path, Path]:
    """A config and a checkpoint of its model, with weights that are all different from those of a new one."""
    hybrid_dense.register_all_modules()
    config = CONFIGS / f"{name}.py"
    torch.manual_seed(1)
    model = Predictor(config, device="cpu", fold=False).model
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand_like(value))
    meta = dict(epoch=3, iter=12, dataset_meta=dict(classes=CLASSES), cfg="import os", seed=0)
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer={}), folder / "epoch_3.pth")
    (folder / "metrics.json").write_text(json.dumps(dict(mIoU=61.5, per_class=dict(disk=dict(IoU=1.0)))))
    return config, folder / "epoch_3.pth"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("demo_semantic", tmp_path_factory.mktemp("semantic"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    config, checkpoint = trained
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    export(checkpoint, config, path, licence="CC-BY-4.0")
    return path


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """An exported model to be spoilt."""
    for path in (exported, exported.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    return tmp_path / exported.name


def image():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def outputs(predictor) -> dict:
    prediction = predictor(image())
    fields = ("boxes", "scores", "labels", "masks", "label_map")
    return {name: getattr(prediction, name) for name in fields if getattr(prediction, name) is not None}


@pytest.mark.parametrize("name", ["demo", "demo_semantic"])
def test_predictions_are_the_same_bit_for_bit(name, tmp_path):
    config, checkpoint = train(name, tmp_path)
    export(checkpoint, config, tmp_path / "model.safetensors")
    before, after = Predictor(config, checkpoint, device="cpu"), Predictor(tmp_path / "model.safetensors", device="cpu")
    assert after.class_names == before.class_names
    expected, found = outputs(before), outputs(after)
    assert expected.keys() == found.keys() and expected
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    # A fresh model of the config does not predict the same, so the weights did it.
    fresh = outputs(Predictor(config, device="cpu"))
    assert not all(np.array_equal(expected[name], fresh[name]) for name in expected)


def test_half_is_half_the_size_and_nearly_the_same(trained, exported, tmp_path):
    config, checkpoint = trained
    card = export(checkpoint, config, tmp_path / "half.safetensors", half=True)
    assert card.dtype == "float16"
    assert 0.4 < (tmp_path / "half.safetensors").stat().st_size / exported.stat().st_size < 0.6
    stored = load_file(tmp_path / "half.safetensors")
    halved = {name for name, value in stored.items() if value.dtype == torch.float16}
    assert halved == {name for name, value in stored.items() if value.is_floating_point() and value.dim() > 1}

    model = Predictor(tmp_path / "half.safetensors", device="cpu", fold=False).model
    whole = read_checkpoint(checkpoint).weights
    for name, value in model.state_dict().items():
        assert value.dtype == whole[name].dtype
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-6)
    images = torch.rand(1, 3, 64, 64)
    before = Predictor(config, checkpoint, device="cpu").model.backbone
    with torch.no_grad():
        for half, full in zip(model.backbone(images), before(images), strict=True):
            assert (half - full).norm() < 5e-3 * full.norm()


def test_what_half_cannot_hold_stays_whole(tmp_path):
    from hybrid_dense.weights.export import _halve

    assert _halve(torch.full((2, 2), 1e6)).dtype == torch.float32
    assert _halve(torch.ones(2, 2)).dtype == torch.float16
    assert _halve(torch.ones(2, 2, dtype=torch.int64)).dtype == torch.int64


def test_the_card_says_where_it_is_from(trained, exported):
    config, checkpoint = trained
    with safe_open(exported, "pt") as file:
        text = file.metadata()[CARD_KEY]
    assert text == exported.with_suffix(".json").read_text()
    card = read_card(read_checkpoint(exported).meta["card"], "x")
    digest = sha256(checkpoint.read_bytes()).hexdigest()
    assert card.source == dict(file="epoch_3.pth", sha256=digest, averaged=False, epoch=3, iter=12)
    assert card.metrics["mIoU"] == 61.5 and card.metrics_from == "metrics.json"
    assert card.licence == "CC-BY-4.0" and card.created == date.today().isoformat()
    assert card.versions["hybrid_dense"] == hybrid_dense.__version__ and card.versions["torch"] == torch.__version__
    model = Predictor(config, device="cpu", fold=False).model
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert card.inputs["mean"] == list(Config.fromfile(config).model.data_preprocessor.mean)
    assert set(card.config) == {"default_scope", "model", "test_dataloader"}
    assert not any(word in text for word in ("data_root", "ann_file", "optim", str(checkpoint.parent), "import os"))
    # The temporary file is gone.
    assert sorted(file.name for file in exported.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_what_only_trains_is_left_out():
    pipeline = [dict(type="LoadImageFromFile", backend_args=dict(backend="petrel"))]
    config = dict(
        model=dict(type="A", init_cfg=dict(checkpoint="x.pth"), heads=[dict(pretrained="y.pth", size=(1, 2))]),
        test_dataloader=dict(
            dataset=dict(type="Wrapper", dataset=dict(type="D", data_root="/home", pipeline=pipeline))
        ),
        work_dir="/home/me",
    )
    assert used_parts(config) == dict(
        default_scope="mmdet",
        model=dict(type="A", heads=[dict(size=(1, 2))]),
        test_dataloader=dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile")])),
    )
    with pytest.raises(ValueError, match="no test_dataloader.dataset.pipeline"):
        find_test_dataset({})
    with pytest.raises(ValueError, match="the config has no model"):
        used_parts(dict(config, model=None))


def test_averaged_weights(trained, tmp_path):
    config, checkpoint = trained
    weights = read_checkpoint(checkpoint).weights
    averaged = {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(dict(state_dict=weights, model_ema=averaged), tmp_path / "both.pth")
    assert export(tmp_path / "both.pth", config, tmp_path / "a.safetensors", ema=True).source["averaged"]
    assert not export(tmp_path / "both.pth", config, tmp_path / "b.safetensors").source["averaged"]
    name = "backbone.cnn.bn1.weight"
    assert torch.equal(load_file(tmp_path / "a.safetensors")[name], averaged[name])
    assert torch.equal(load_file(tmp_path / "b.safetensors")[name], weights[name])
    with pytest.raises(ValueError, match="no averaged"):
        export(checkpoint, config, tmp_path / "c.safetensors", ema=True)


def test_commands(trained, tmp_path, capsys, monkeypatch):
    from PIL import Image

    config, checkpoint = trained
    Image.fromarray(image()).save(tmp_path / "image.png")
    model = tmp_path / "model.safetensors"
    assert main(["weights", "export", str(checkpoint), "--config", str(config), "-o", str(model)]) == 0
    said = capsys.readouterr().out
    assert f"{model}: 1.83 M parameters, 7 classes, float32" in said
    assert f"metrics are those of {checkpoint.parent / 'metrics.json'}" in said
    assert main(["predict", str(model), str(tmp_path / "image.png"), "--out", str(tmp_path / "a"), "--device=cpu"]) == 0
    arguments = [str(config), str(model), str(tmp_path / "image.png"), "--out", str(tmp_path / "b"), "--device=cpu"]
    assert main(["predict", *arguments]) == 0
    assert (tmp_path / "a/image.png").read_bytes() == (tmp_path / "b/image.png").read_bytes()
    capsys.readouterr()
    assert main(["weights", "show", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "backbone.cnn" in shown and "metrics: " in shown and "epoch_3.pth" in shown and "total" in shown
    assert main(["weights", "show", str(checkpoint), "--all"]) == 0
    shown = capsys.readouterr().out
    assert "backbone.cnn.bn1.weight" in shown and "epoch: 3" in shown and "also holds: optimizer" in shown


def test_show_takes_names_of_wrapped_models(tmp_path, capsys):
    save_file({"module.backbone.weight": torch.zeros(2, 3, dtype=torch.float16)}, tmp_path / "wrapped.safetensors")
    assert main(["weights", "show", str(tmp_path / "wrapped.safetensors"), "--all"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "backbone.weight" in line)
    assert "2×3" in row and "float16" in row and "module" not in row


def test_a_file_without_a_card_names_the_mend(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="has no model card; give its config too, or make one: hybrid-dense weights"):
        Predictor(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(version=2), "model card of version 2, this reads 1; update"),
        (dict(config=dict(model=dict(type="os.mkdir", path="x"))), "no test_dataloader"),
        (dict(classes=3), "damaged model card"),
        (dict(config=3), "damaged model card"),
    ],
    ids=str,
)
def test_damaged_and_foreign_cards_are_one_line(copy, change, message):
    rewrite(copy, **change)
    with pytest.raises(ValueError, match=message) as error:
        Predictor(copy)
    assert "\n" not in str(error.value)


def rewrite(path, **change) -> None:
    card = json.loads(path.with_suffix(".json").read_text()) | change
    save_file(load_file(path), path, metadata={CARD_KEY: json.dumps(card)})


@pytest.mark.parametrize("place", ["model", "pipeline", "loss"])
def test_a_card_runs_nothing(copy, tmp_path, place):
    from mmengine.registry import MODELS

    harmed = tmp_path / "harmed"
    hostile = dict(type="os.mkdir", path=str(harmed))
    content = json.loads(copy.with_suffix(".json").read_text())["config"]
    if place == "model":
        content["model"] = hostile
    elif place == "loss":
        content["model"]["backbone"]["fusion"] = hostile
    else:
        content["test_dataloader"]["dataset"]["pipeline"].append(hostile)
    rewrite(copy, config=content)
    with pytest.raises(ValueError, match=r"^the model card of .*type='os\.mkdir' names no registered part"):
        Predictor(copy, device="cpu")
    assert not harmed.exists()
    MODELS.build(hostile)
    assert harmed.exists()


def test_nothing_is_left_where_an_export_fails(trained, tmp_path, monkeypatch):
    config, checkpoint = trained
    out = tmp_path / "out" / "model.safetensors"
    with pytest.raises(ValueError, match=r"ends in \.safetensors, not to .*model\.pth"):
        export(checkpoint, config, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="does not fit the model"):
        export(checkpoint, CONFIGS / "demo.py", out)
    assert not out.parent.exists()

    def cut_off(_, path, **__):
        Path(path).write_bytes(b"half a file")
        raise OSError("No space left on device")

    out.parent.mkdir()
    out.write_text("the export before")
    monkeypatch.setattr("safetensors.torch.save_file", cut_off)
    with pytest.raises(OSError, match="No space left"):
        export(checkpoint, config, out)
    assert [file.name for file in out.parent.iterdir()] == ["model.safetensors"]
    assert out.read_text() == "the export before"


def test_an_export_can_be_exported_again(trained, copy, tmp_path):
    export(copy, trained[0], tmp_path / "two.safetensors", half=True)
    with pytest.raises(ValueError, match="is the checkpoint itself"):
        export(copy, trained[0], copy)


def test_an_export_is_tested_as_its_checkpoint_is(trained, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(tmp_path))
    config, checkpoint = trained
    options = ["scenes.train=2", "scenes.val=2", "scenes.size=64", "test_dataloader.num_workers=0"]
    options += ["test_dataloader.persistent_workers=False"]
    for path, folder in ((checkpoint, "a"), (exported, "b")):
        arguments = [str(config), str(path), "--work-dir", str(tmp_path / folder), "--cfg-options", *options]
        assert main(["test", *arguments]) == 0
    metrics = [json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "ab"]
    for figures in metrics:
        for name in [name for name in figures if name.endswith("time")]:
            del figures[name]
    assert metrics[0] == metrics[1] and "mIoU" in metrics[0]
