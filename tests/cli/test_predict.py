"""`hybrid-dense predict` end to end, with the project's own demo configs and untrained weights."""

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from pycocotools.coco import COCO

from hybrid_dense.channels import fill_channels
from hybrid_dense.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with two images and a broken one, and another folder with an image of the same name as one of them."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (64, 48)), ("b.jpg", (64, 64)), ("more/a.png", (48, 64))):
        PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    """Untrained weights for each demo config, by the config's name."""
    folder, paths = tmp_path_factory.mktemp("weights"), {}
    for name in ("demo", "demo_semantic"):
        config = Config.fromfile(CONFIGS / f"{name}.py")
        fill_channels(config)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(config.default_scope):
            model = MODELS.build(config.model)
        paths[name] = str(folder / f"{name}.pth")
        torch.save({"state_dict": model.state_dict(), "meta": {}}, paths[name])
    return paths


def predict(name, weights, inputs, out, *options) -> int:
    inputs = [str(item) for item in inputs]
    return main(["predict", str(CONFIGS / f"{name}.py"), weights[name], *inputs, "--out", str(out), *options])


def test_detector_writes_pictures_and_coco_results(images, weights, tmp_path, capsys):
    assert predict("demo", weights, [images, images / "more"], tmp_path, "--min-score", "0.1", "--device", "cpu") == 0
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["a.png", "a_2.png", "b.png", "index.json", "predictions.json"]
    assert PIL.Image.open(tmp_path / "a_2.png").size[0] >= 64

    truth = COCO(tmp_path / "index.json")
    results = truth.loadRes(str(tmp_path / "predictions.json"))
    assert [Path(image["file_name"]).name for image in truth.dataset["images"]] == ["a.png", "b.jpg", "a.png"]
    assert [image["height"] for image in truth.dataset["images"]] == [64, 64, 48]
    assert {image["id"] for image in truth.dataset["images"]} == set(results.getImgIds(catIds=[])) == {1, 2, 3}
    raw = json.loads((tmp_path / "predictions.json").read_text())
    assert raw and all(result["score"] >= 0.1 for result in raw)
    assert results.annToMask(results.anns[1]).shape == (64, 48)
    names = Config.fromfile(CONFIGS / "demo.py").test_dataloader.dataset.metainfo.classes
    assert [category["name"] for category in truth.dataset["categories"]] == list(names)

    lines = capsys.readouterr().out.splitlines()
    assert "skipped: " in "".join(lines) and "broken.png" in "".join(lines)
    line = next(line for line in lines if line.startswith("3 images"))
    assert f"{len(raw)} detections in {tmp_path / 'predictions.json'}" in line and line.endswith("1 skipped")


def test_segmentor_writes_label_maps(images, weights, tmp_path, capsys):
    options = ("--batch-size", "2", "--amp", "bfloat16", "--device", "cpu")
    assert predict("demo_semantic", weights, [images / "a.png", images / "b.jpg"], tmp_path, *options) == 0
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["a.png", "a_labels.png", "b.png", "b_labels.png", "label_maps.json"]
    index = json.loads((tmp_path / "label_maps.json").read_text())
    assert len(index["classes"]) == 7
    assert [image["label_map"] for image in index["images"]] == ["a_labels.png", "b_labels.png"]
    labels = np.asarray(PIL.Image.open(tmp_path / "a_labels.png"))
    assert labels.shape == (64, 48) and labels.dtype == np.uint8 and labels.max() < 7
    assert "2 images, 2 label maps in" in capsys.readouterr().out


def test_no_pictures(images, weights, tmp_path):
    assert predict("demo", weights, [images / "a.png"], tmp_path / "new", "--no-pictures", "--device", "cpu") == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["index.json", "predictions.json"]


def test_label_maps_and_pictures_never_take_each_others_name(images, weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a_labels.png", "a_2.png"):
        PIL.Image.open(images / "a.png").save(tmp_path / "in" / name)
    assert predict("demo_semantic", weights, [tmp_path / "in"], tmp_path / "out", "--device", "cpu") == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


class Payload:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_wrong_use_is_one_line_and_code_2(images, weights, tmp_path, capsys):
    hostile, harmed = tmp_path / "hostile.pth", tmp_path / "harmed"
    torch.save({"state_dict": {}, "extra": Payload(harmed)}, hostile)
    out = tmp_path / "out"
    cases = [
        (weights, [images / "missing.jpg"], out, "no such image or folder"),
        (weights, [images], images, "holds input images"),
        (weights, [images / "broken.png"], out, "none of the 1 images could be read"),
        ({"demo": str(tmp_path / "missing.pth")}, [images], out, "no such checkpoint"),
        ({"demo": str(hostile)}, [images], out, "would run code (posix.mkdir); refused"),
        ({"demo": weights["demo_semantic"]}, [images], out, "does not fit the model"),
    ]
    for case_weights, inputs, folder, message in cases:
        assert predict("demo", case_weights, inputs, folder, "--device", "cpu") == 2
        error = capsys.readouterr().err.strip()
        assert message in error and error.startswith("hybrid-dense: error:") and "\n" not in error
    assert not harmed.exists()
    assert not list(images.glob("*.json"))
