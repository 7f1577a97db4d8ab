"""What a `.safetensors` file says of the model whose weights it holds: how to build and run it, where it is from.

The card is JSON, in the file's metadata and in a `.json` beside it. Nothing in it is run: its config is data, of which
the model, its test pipeline and its class names are used and no more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from mmengine.config import Config

from hybrid_dense.config_data import check, to_data
from hybrid_dense.config_file import read_text, write_text

VERSION = 1
# Parts of a config that only train: they name files that are not there where the model is used.
TRAINING_ONLY = ("init_cfg", "pretrained", "backend_args", "file_client_args")


@dataclass(frozen=True)
class ModelCard:
    """The card, field by field.

    Attributes:
        config: `default_scope`, `model` and a `test_dataloader` with pipeline and class names: a Predictor's config.
        classes: the names of the classes, in the order of the model's outputs.
        parameters: number of values in the model's parameters.
        dtype: of the matrices in the file; everything becomes float32 on loading.
        source: the checkpoint it was made of: file name, sha256, whether its averaged weights, and how far trained.
        created: date, `2026-01-31`.
        versions: of hybrid_dense, torch and the host.
        inputs: what images should be like: size, mean, std, channel order. For readers; the config holds the same.
        metrics: what was measured, by name, on the weights before they were halved, and `metrics_from`: the file that
            said so. {} where nothing is known.
        score: of these the one that a study compares: name, split and value as a share of 1; {} outside of studies.
        training: how it was trained: config, seed, and of a study command, commit, machine, epochs and minutes.
        data, licence, limits: the data set it was trained on, the licence of the weights, what they are not fit for,
            as their maker states it; None where nothing is said.
        version: of this format.
    """

    config: dict
    classes: tuple[str, ...]
    parameters: int
    dtype: str
    source: dict
    created: str
    versions: dict
    inputs: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    metrics_from: str | None = None
    score: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    data: str | None = None
    licence: str | None = None
    limits: str | None = None
    version: int = VERSION

    def to_json(self) -> str:
        return write_text(asdict(self) | {"classes": list(self.classes)}, ".json")


def read_card(raw: object, source: object) -> ModelCard:
    """The card of a file, from the JSON values of ``Checkpoint.meta["card"]``.

    Raises:
        ValueError: no card, one of a later version, a damaged one, or one whose config is more than data.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{source} has no model card; give its config too, or make one: hybrid-dense weights export")
    if raw.get("version") != VERSION:
        raise ValueError(f"{source} has a model card of version {raw.get('version')!r}, this reads {VERSION}; update")
    names = [part.name for part in fields(ModelCard)]
    try:
        values = read_text(json.dumps({name: raw[name] for name in names if name in raw}), ".json")
        values["config"] = used_parts(values["config"])
        card = ModelCard(**values | {"classes": tuple(map(str, values["classes"]))})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{source} has a damaged model card ({type(error).__name__}: {error})") from None
    check(card.config, f"the model card of {source}")
    return card


def used_parts(config: Config | dict) -> dict:
    """Of a config, what a Predictor needs, as data.

    Raises:
        ValueError: it has no model or no test pipeline, or a value that is no data.
    """
    content = to_data(config)
    dataset = find_test_dataset(content)
    if not isinstance(content.get("model"), dict):
        raise ValueError("the config has no model")
    names = {"classes": tuple(dataset.get("metainfo", {}).get("classes", ()))}
    kept = {"pipeline": dataset["pipeline"]} | ({"metainfo": names} if names["classes"] else {})
    return {
        "default_scope": content.get("default_scope", "mmdet"),
        "model": _without_training(content["model"]),
        "test_dataloader": {"dataset": _without_training(kept)},
    }


def find_test_dataset(config: dict) -> dict:
    """The innermost test data set of a config: the one that has the pipeline."""
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset:
        dataset = dataset.get("dataset") or next(iter(dataset.get("datasets", ())), None)
        if not dataset:
            raise ValueError("the config has no test_dataloader.dataset.pipeline, so nothing says how to read an image")
    return dataset


def describe_inputs(config: dict) -> dict:
    """What images the model wants, read off the test pipeline and the preprocessor of ``used_parts``."""
    resize = next((step for step in config["test_dataloader"]["dataset"]["pipeline"] if "scale" in step), {})
    preprocessor = config["model"].get("data_preprocessor") or {}
    found = {
        "scale": resize.get("scale"),
        "keep_ratio": resize.get("keep_ratio"),
        **{name: preprocessor.get(name) for name in ("mean", "std", "bgr_to_rgb", "pad_size_divisor")},
    }
    return {name: value for name, value in found.items() if value is not None}


def card_path(weights: Path) -> Path:
    """The `.json` beside a file of weights."""
    return weights.with_suffix(".json")


def _without_training(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_training(inner) for key, inner in value.items() if key not in TRAINING_ONLY}
    return type(value)(map(_without_training, value)) if isinstance(value, (list, tuple)) else value
