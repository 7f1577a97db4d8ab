"""Trained models that come with the package: each is a `NAME.safetensors` here, with its model card as `NAME.json`.

>>> Predictor("camvid")("street.jpg").draw("out.png")  # nothing is fetched
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"


def list_models() -> list[str]:
    """The names of the shipped models, sorted: the files that are there."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def weights_of(name: str) -> Path:
    """The file of a shipped model's weights; its card lies beside it as `.json`."""
    return FOLDER / f"{name}{SUFFIX}"


def locate(model: str | Path) -> Path:
    """The file of a shipped model for its bare name; any other path as it is.

    A bare name has neither folder nor ending, and no file is called so.

    Raises:
        ValueError: no shipped model has this name.
    """
    path = Path(model)
    if path.suffix or path.name != str(model) or path.is_file():
        return path
    names = list_models()
    if path.name in names:
        return weights_of(path.name)
    near = get_close_matches(path.name, names, n=1, cutoff=0.4)
    raise ValueError(
        f"no model {path.name!r} is shipped{f', did you mean {near[0]}?' if near else ''} "
        f"(there are: {', '.join(names) or 'none'}); of your own, name a config file (.py, .yaml, .json) and its "
        "weights, or an exported .safetensors"
    )


def read_cards() -> dict[str, dict]:
    """Name → model card of each shipped model, as JSON has it."""
    return {name: json.loads(weights_of(name).with_suffix(".json").read_text()) for name in list_models()}
