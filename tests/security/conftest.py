"""A model small enough to be loaded everywhere."""

from pathlib import Path

import pytest
import torch
from hostile import Kit

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "scenes": dict(train=4, val=2, size=64, seed=0),
    "train_dataloader": dict(batch_size=2, num_workers=0, persistent_workers=False),
    "val_dataloader": dict(num_workers=0, persistent_workers=False),
    "test_dataloader": dict(num_workers=0, persistent_workers=False),
    "train_cfg": dict(max_epochs=2, val_interval=100),
    "default_hooks": dict(checkpoint=dict(save_optimizer=False)),  # so that one without it can be resumed
}


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """The semantic demo in small: its config as YAML, its untrained weights and an image."""
    import numpy as np
    from mmengine.config import Config
    from PIL import Image

    import hybrid_dense
    from hybrid_dense.config_file import read_config, write_config
    from hybrid_dense.inference import Predictor

    hybrid_dense.register_all_modules()
    folder = tmp_path_factory.mktemp("model")
    cfg = Config.fromfile(CONFIGS / "demo_semantic.py")
    cfg.merge_from_dict(SMALL)
    write_config(cfg, folder / "small.yaml")
    torch.manual_seed(0)
    model = Predictor(read_config(folder / "small.yaml"), device="cpu", fold=False).model
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "image.png")
    return folder / "small.yaml", model.state_dict(), folder / "image.png"


@pytest.fixture(scope="session")
def scenes_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def kit(model_files, scenes_cache, tmp_path, monkeypatch) -> Kit:
    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(scenes_cache))
    monkeypatch.chdir(tmp_path)
    return Kit(*model_files, tmp_path / "harmed")
