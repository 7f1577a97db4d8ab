"""Every shipped model: small, in half precision, its card complete, and about as good as the card says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hybrid_dense.cli import main
from hybrid_dense.engine.checkpoint import CARD_KEY
from hybrid_dense.inference import Predictor
from hybrid_dense.model_card import read_card
from hybrid_dense.model_zoo import FOLDER, list_models, read_cards, weights_of

PROJECT = Path(__file__).parents[2]
MOST_BYTES = 12 * 2**20
# Of the card's figure: a dozen images are not the whole validation set.
FLOOR = 0.75
SPREAD = "[0,7,14,21,28,35,42,49,56,63,70,77]"

every_shipped = pytest.mark.parametrize("name", ["bccd", "camvid"])


def test_every_file_is_weights_or_their_card():
    assert list_models() == ["bccd", "camvid"]
    files = {file.name for file in FOLDER.iterdir() if file.is_file()} - {"__init__.py"}
    assert files == {f"{name}{suffix}" for name in list_models() for suffix in (".safetensors", ".json")}


@every_shipped
def test_small_and_in_half_precision(name):
    assert weights_of(name).stat().st_size <= MOST_BYTES
    types = {value.dtype for value in load_file(weights_of(name)).values() if value.dim() > 1}
    assert types == {torch.float16}


@every_shipped
def test_the_card_is_complete_and_that_of_the_weights(name):
    text = weights_of(name).with_suffix(".json").read_text()
    with safe_open(weights_of(name), "pt") as file:
        assert file.metadata()[CARD_KEY] == text
    card = read_card(json.loads(text), name)
    assert card.classes and card.data and card.licence and card.limits and card.inputs and card.dtype == "float16"
    assert {"name", "split", "value"} == card.score.keys() and 0 < card.score["value"] <= 1
    assert card.score["name"] in card.metrics[card.score["split"]]
    assert {"config", "command", "seed", "commit", "machine", "minutes"} <= card.training.keys()
    assert (PROJECT / card.training["config"]).is_file()
    assert len(card.source["sha256"]) == 64 and isinstance(card.source["averaged"], bool)


@every_shipped
def test_the_card_names_no_place_of_a_machine(name):
    assert not re.findall(r"(?<![\w.$~])/(?:home|root|work|tmp|mnt|data|Users)\b", json.dumps(read_cards()[name]))


@every_shipped
def test_predicts_a_made_image(name):
    predictor = Predictor(name, device="cpu")
    card = read_cards()[name]
    assert predictor.class_names == tuple(card["classes"])
    # Folding gives convolutions that levels share a bias, and so weights, for each level.
    whole = Predictor(name, device="cpu", fold=False).model
    assert sum(value.numel() for value in whole.parameters()) == card["parameters"]
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    found = predictor(image)
    if found.label_map is not None:
        assert found.label_map.shape == (120, 160) and found.label_map.max() < len(card["classes"])
    else:
        assert found.boxes.shape == (len(found), 4) and set(found.labels) <= set(range(len(card["classes"])))


@every_shipped
def test_is_about_as_good_as_its_card_says(name, data_root, tmp_path):
    """By the test of the config that trained it, on a dozen validation images."""
    card = read_cards()[name]
    score, config = card["score"], PROJECT / card["training"]["config"]
    loader = ["num_workers=0", "persistent_workers=False", f"dataset.indices={SPREAD}"]
    options = ["--cfg-options", *(f"+test_dataloader.{option}" for option in loader)]
    assert main(["test", str(config), name, "--work-dir", str(tmp_path), "--no-amp", *options]) == 0
    figure = json.loads((tmp_path / "metrics.json").read_text())[score["name"]]
    assert figure > FLOOR * card["metrics"][score["split"]][score["name"]]
