"""A bare name means a shipped model, everywhere a model is named; nothing is fetched for it."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_dense.cli import main
from hybrid_dense.inference import Predictor
from hybrid_dense.model_zoo import list_models, locate, read_cards

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("this has no business on the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def photo(tmp_path, monkeypatch) -> Path:
    """An image in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("photo.png")
    return Path("photo.png")


def test_the_files_are_the_list(zoo, empty_zoo):
    assert list_models() == [] and read_cards() == {}
    for name in ("b", "a"):
        (empty_zoo / f"{name}.safetensors").touch()
        (empty_zoo / f"{name}.json").write_text(json.dumps({"classes": [name]}))
    (empty_zoo / "notes.txt").touch()
    assert list_models() == ["a", "b"]
    assert read_cards() == {"a": {"classes": ["a"]}, "b": {"classes": ["b"]}}


def test_only_a_bare_name_means_a_shipped_model(zoo, photo):
    assert locate("tiny") == locate(Path("tiny")) == zoo / "tiny.safetensors"
    for path in ("tiny.py", "tiny.safetensors", "configs/tiny", "/tiny"):
        assert locate(path) == Path(path)
    Path("tiny").mkdir()  # such as a data set's folder
    assert locate("tiny") == zoo / "tiny.safetensors"
    Path("tiny").rmdir()
    Path("tiny").touch()
    assert locate("tiny") == Path("tiny")


def test_an_unknown_name_is_one_line_with_the_nearest_and_all(zoo):
    with pytest.raises(ValueError) as error:
        Predictor("tinny")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("no model 'tinny' is shipped, did you mean tiny? (there are: tiny)")
    assert "a config file (.py, .yaml, .json) and its weights, or an exported .safetensors" in str(error.value)
    with pytest.raises(ValueError, match=r"^no model 'xyz' is shipped \(there are: tiny\); of your own"):
        locate("xyz")


def test_with_nothing_shipped_the_error_says_so(empty_zoo):
    with pytest.raises(ValueError, match=r"^no model 'camvid' is shipped \(there are: none\)"):
        locate("camvid")


def test_a_shipped_model_predicts_offline(zoo, no_network, recwarn):
    predictor = Predictor("tiny", device="cpu")
    assert not [warning for warning in recwarn if "avg_non_ignore" in str(warning.message)]  # that is for training
    prediction = predictor(PIXELS)
    assert prediction.label_map.shape == (64, 96)
    assert prediction.class_names == predictor.class_names == tuple(read_cards()["tiny"]["classes"])
    by_path = Predictor(zoo / "tiny.safetensors", device="cpu")(PIXELS)
    assert np.array_equal(prediction.label_map, by_path.label_map)


def test_other_weights_take_the_place_of_its_own(zoo, tmp_path):
    own = Predictor("tiny", device="cpu", fold=False).model.state_dict()
    trained = {name: value + 1 if value.is_floating_point() else value for name, value in own.items()}
    torch.save(dict(state_dict=trained), tmp_path / "trained.pth")
    loaded = Predictor("tiny", tmp_path / "trained.pth", device="cpu", fold=False).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())


def test_commands_take_the_name(zoo, photo, no_network, capsys):
    assert main(["predict", "tiny", str(photo), "--out", "found", "--device=cpu"]) == 0
    assert {file.name for file in Path("found").iterdir()} == {"photo.png", "photo_labels.png", "label_maps.json"}
    assert main(["weights", "show", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert f"{zoo / 'tiny.safetensors'}: " in shown and "float16" in shown.partition("dtype: ")[0]


@pytest.mark.parametrize(
    "arguments", ["predict tinny photo.png --out found", "weights show tinny", "test config.py tinny"]
)
def test_commands_name_the_mend(zoo, photo, capsys, arguments):
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("hybrid-dense: error: no model 'tinny' is shipped, did you mean tiny?")
    assert "\n" not in said


def test_names_need_no_torch():
    code = (
        "import sys; sys.argv[0] = '/usr/bin/hybrid-dense'\n"  # the command registers later
        "from hybrid_dense.model_zoo import list_models; list_models()\n"
        "print([name for name in ('torch', 'mmengine', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
