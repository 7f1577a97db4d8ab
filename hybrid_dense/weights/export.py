"""Write a trained model as `.safetensors` with its card: one file that runs nothing when opened and needs no config."""

from __future__ import annotations

import datetime
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from hybrid_dense.engine.checkpoint import CARD_KEY, read_checkpoint
from hybrid_dense.engine.files import checksum_lines, discard_temporary, temporary_path, write_text
from hybrid_dense.inference import Predictor
from hybrid_dense.model_card import ModelCard, card_path, describe_inputs, used_parts
from hybrid_dense.model_zoo import SUFFIX
from hybrid_dense.version import __version__
from hybrid_dense.weights.training import config_name, read_measured

HOST_PACKAGES = {"mmdet": "onedl-mmdetection", "mmseg": "onedl-mmsegmentation"}


def export(
    checkpoint: str | Path,
    config,
    out: str | Path,
    half: bool = False,
    ema: bool = False,
    metrics: str | Path | None = None,
    licence: str | None = None,
    data: str | None = None,
    limits: str | None = None,
    trust: bool = False,
) -> ModelCard:
    """Write the weights and the card of a trained model; returns the card.

    The model is built and filled, so what is written is whole and fits its config. The card is written beside the
    weights too, as `.json`. Both appear whole or not at all.

    Args:
        checkpoint: `.pth` or another file of weights.
        config: the config that it was trained with, as `Predictor` takes it.
        out: ends in `.safetensors`; replaced if it is there.
        half: matrices and kernels as float16, half the size. Norms, biases and statistics stay float32, which costs
            nothing; so does what float16 cannot hold.
        ema: the averaged weights. (mmengine's EMAHook puts them into `state_dict`, where both values find them.)
        metrics: a JSON file of figures by name, or of a study's run, which says how it was trained too; None takes
            `metrics.json` beside the checkpoint, if there is one.
        licence: of the weights, such as an SPDX name.
        data: the data set they were trained on.
        limits: what they are not fit for. None of these, and no metrics, leave what the card of an exported
            ``checkpoint`` says.
        trust: open the checkpoint without restriction, so that it can run code.

    Raises:
        FileNotFoundError, ValueError: one line on what is wrong with the config, the checkpoint or `out`.
    """
    from safetensors.torch import save_file

    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix != SUFFIX:
        raise ValueError(f"weights are exported to a file that ends in {SUFFIX}, not to {out}")
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise ValueError(f"{out} is the checkpoint itself; name another file")
    loaded = read_checkpoint(checkpoint, ema, trust)
    meta = loaded.meta
    seed = {"seed": meta["seed"]} if isinstance(meta.get("seed"), int) else {}
    measured = read_measured(checkpoint, metrics, **seed)
    predictor = Predictor(config, loaded, device="cpu", fold=False)
    parts = used_parts(predictor.config)
    parts["test_dataloader"]["dataset"]["metainfo"] = {"classes": predictor.class_names}
    # What an exported file that is exported again says of itself, where nothing newer is said.
    before = meta.get("card") or {}
    if measured.file is None:
        figures = {name: before[name] for name in ("metrics", "metrics_from", "score") if name in before}
    else:
        figures = dict(metrics=measured.metrics, metrics_from=measured.file.name, score=measured.score)
    card = ModelCard(
        config=parts,
        classes=predictor.class_names,
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
        dtype="float16" if half else "float32",
        source={
            "file": checkpoint.name,
            "sha256": checksum_lines(checkpoint, "").split()[0],
            "averaged": loaded.averaged or bool(before.get("source", {}).get("averaged")),
            **{name: meta[name] for name in ("epoch", "iter") if isinstance(meta.get(name), int)},
        },
        created=datetime.date.today().isoformat(),
        versions={"hybrid_dense": __version__, "torch": torch.__version__, **_host_version(parts["default_scope"])},
        inputs=describe_inputs(parts),
        **figures,
        training={**config_name(predictor.config), **before.get("training", {}), **seed, **measured.training},
        data=data or before.get("data"),
        licence=licence or before.get("licence"),
        limits=limits or before.get("limits"),
    )
    text = card.to_json()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(out)
    try:
        # Copies, because the format knows no two names for one tensor.
        weights = predictor.model.state_dict()
        stored = {name: (_halve(value) if half else value).contiguous().clone() for name, value in weights.items()}
        save_file(stored, temporary, metadata={"format": "pt", CARD_KEY: text})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        card_path(out).unlink(missing_ok=True)  # no weights beside the card of others, wherever this is killed
        os.replace(temporary, out)
    finally:
        discard_temporary(out)
    write_text(card_path(out), text)
    shutil.copymode(card_path(out), out)  # safetensors lets only the owner read what it writes
    return card


def _halve(value: Tensor) -> Tensor:
    """A matrix or kernel as float16; anything else, and what would become infinite, as it is."""
    if not value.is_floating_point() or value.dim() < 2:
        return value
    halved = value.half()
    return halved if halved.isfinite().all() or not value.isfinite().all() else value


def _host_version(scope: str) -> dict:
    try:
        return {scope: version(HOST_PACKAGES.get(scope, scope))}
    except PackageNotFoundError:
        return {}
