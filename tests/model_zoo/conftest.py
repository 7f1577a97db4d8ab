"""A zoo with one tiny model in it."""

from pathlib import Path

import pytest
import torch

import hybrid_dense
from hybrid_dense import model_zoo

CONFIG = Path(__file__).parents[2] / "configs/demo_semantic.py"


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory) -> Path:
    """A folder with `tiny.safetensors`, an untrained segmentor in half precision, and its card."""
    from hybrid_dense.inference import Predictor
    from hybrid_dense.weights.export import export

    hybrid_dense.register_all_modules()
    checkpoint = tmp_path_factory.mktemp("untrained") / "epoch_1.pth"
    model = Predictor(CONFIG, device="cpu", fold=False).model
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1, seed=0)), checkpoint)
    folder = tmp_path_factory.mktemp("zoo")
    export(checkpoint, CONFIG, folder / "tiny.safetensors", half=True)
    return folder


@pytest.fixture
def zoo(tiny_zoo, monkeypatch) -> Path:
    """The folder of the shipped models is the tiny one."""
    monkeypatch.setattr(model_zoo, "FOLDER", tiny_zoo)
    return tiny_zoo


@pytest.fixture
def empty_zoo(tmp_path, monkeypatch) -> Path:
    """Nothing is shipped."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(model_zoo, "FOLDER", folder)
    return folder
