"""Open checkpoints without running code from them.

mmengine falls back to unrestricted pickle where its safe load fails, so a hostile `.pth` runs code. Here nothing does:
what the restricted unpickler refuses is an error that names the refused object.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

from hybrid_dense.engine.restricted_pickle import load_pickle

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
# Where the weights lie in a checkpoint; without any of these keys the file itself is the state dict.
_WEIGHT_KEYS = ("state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "model_ema")
# Under this name the metadata of a `.safetensors` file holds the model card, as JSON.
CARD_KEY = "hybrid_dense"

# Files, folders and addresses that the user vouches for.
_trusted: set[str] = set()


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name (on the CPU, `module.` prefixes removed) and the `meta` that mmengine wrote beside them.

    `meta["card"]` is the model card of an exported file, as JSON has it. `averaged` says whether the weights are
    averages over steps (EMA).
    """

    path: Path
    weights: dict[str, Tensor]
    meta: dict = field(default_factory=dict)
    averaged: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes it was trained on, () where the file does not say."""
        dataset = self.meta.get("dataset_meta") or {}
        return tuple(dataset.get("classes") or dataset.get("CLASSES") or self.meta.get("CLASSES") or ())


def trust(source: str | Path) -> None:
    """Open this file, everything in this folder, or what lies at this address without restriction from now on.

    A file that is opened so can run any code: vouch for nothing that you have not made yourself or examined.
    """
    _trusted.add(str(source))
    if "://" not in str(source):
        _trusted.add(str(Path(source).expanduser().resolve()))


def is_trusted(source: str | Path) -> bool:
    """Whether the user has vouched for this file or address, or for a folder above the file; see `trust`."""
    if str(source) in _trusted:
        return True
    path = Path(source).expanduser().resolve()
    return "://" not in str(source) and any(str(place) in _trusted for place in (path, *path.parents))


def load_state_dict(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """Weights by name from a `.pth`, `.pt` or `.safetensors` file, on the CPU; see `read_checkpoint`."""
    return read_checkpoint(path, ema).weights


def read_checkpoint(path: str | Path, ema: bool = False, trust: bool = False) -> Checkpoint:
    """Read weights and meta of a checkpoint; no code in the file is run.

    Args:
        path: a file of `torch.save` or of safetensors. The weights are taken from its `state_dict`, its `model`, or are
            the file's own dict.
        ema: take the averaged weights instead. (mmengine's EMAHook stores the averaged ones as `state_dict`, so there
            both values give the same.)
        trust: open it without restriction, so that it can run code.

    Raises:
        FileNotFoundError: no such file; the message names the nearest ones in the folder.
        ValueError: empty, truncated or unsafe file, or no weights in it.
    """
    return take_weights(Path(path), safe_load(path, trust), ema)


def take_weights(path: Path, content: Mapping, ema: bool = False) -> Checkpoint:
    """Weights and meta out of what `safe_load` has read from this file; raises as `read_checkpoint` does."""
    weights = _pick_weights(path, content, ema)
    meta = content.get("meta")
    return Checkpoint(path, weights, meta if isinstance(meta, dict) else {}, ema or "ema_state_dict" in content)


def safe_load(path: str | Path, trust: bool = False) -> dict:
    """Everything in a checkpoint file, read by the restricted unpickler; raises as `read_checkpoint` does.

    Tensors are on the CPU, and those of a current `.pth` are the mapped file itself: clone what you keep.
    """
    path = _existing_file(path)
    content = read_file(path, trust=trust, mapped=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dict")
    return content


def read_file(path: str | Path, map_location="cpu", trust: bool = False, mapped: bool = False) -> object:
    """What a file of `torch.save` or of safetensors holds, whatever it is; raises as `read_checkpoint` does.

    Args:
        path: the file.
        map_location: where tensors go, as `torch.load` takes it; of safetensors only to a device.
        trust: open it without restriction, as a file that `is_trusted` is opened anyway.
        mapped: let tensors on the CPU be the mapped file itself, which spares memory while the file stays as it is.
    """
    path = _existing_file(path)
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    if trust or is_trusted(path):
        return _load_anything(path, map_location)
    return load_pickle(path, map_location, mapped)


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; name a checkpoint file{_list_files(path, 'in it')}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such checkpoint: {path} (there is no folder {path.parent})")
    raise FileNotFoundError(f"no such checkpoint: {path}{_list_files(path.parent, 'in that folder', path.name)}")


def _list_files(folder: Path, where: str, wanted: str = "") -> str:
    """The checkpoints in a folder as the end of a message, those with the most similar names first."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)
    names = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4) or names[-3:]
    return f"; {where}: {', '.join(names)}" if names else f"; there is none {where}"


def _load_safetensors(path: Path, map_location) -> dict:
    """The tensors by name; of a file with a model card, what a training checkpoint would hold: state_dict and meta."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(f"{path} needs the safetensors library: pip install safetensors") from None
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118, it is no dict
            card = (file.metadata() or {}).get(CARD_KEY)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from None
    if card is None:
        return tensors
    try:
        card = json.loads(card)
        classes = tuple(map(str, card["classes"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} has a damaged model card") from None
    # The file may hold them in fewer bits to be small; what computes with them wants float32.
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return {"state_dict": tensors, "meta": {"dataset_meta": {"classes": classes}, "card": card}}


def _load_anything(path: Path, map_location) -> object:
    print_log(f"{path} is trusted: opened without restriction, it can run any code", "current", logging.WARNING)
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__}: {error})") from error


def _pick_weights(path: Path, content: Mapping, ema: bool) -> OrderedDict[str, Tensor]:
    if ema and "ema_state_dict" not in content:
        found = next((content[key] for key in _EMA_KEYS if isinstance(content.get(key), Mapping)), None)
        if found is None:
            raise ValueError(f"{path} holds no averaged (EMA) weights, only: {some_of(list(content))}")
    else:
        found = next((content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), Mapping)), content)
    weights = OrderedDict((name, value) for name, value in found.items() if isinstance(value, Tensor))
    if not weights:
        raise ValueError(f"{path} is not a checkpoint: no weights in it, only: {some_of(list(found))}")
    odd = next((name for name, value in weights.items() if not _is_plain(value)), None)
    if odd is not None:
        raise ValueError(f"{path} is no checkpoint of a model: {odd} is not a dense tensor of real numbers")
    # Copies, because the tensors may still be the mapped file, which a training run may overwrite at any time.
    # A small file may claim huge tensors, by a stride of 0; their copies would not fit into the memory.
    claimed = next((n for n, v in weights.items() if v.numel() * v.element_size() > v.untyped_storage().nbytes()), None)
    if claimed is not None:
        raise ValueError(f"{path} is no checkpoint: {claimed} claims more values than the file holds")
    weights = OrderedDict((_strip(name), value.clone()) for name, value in weights.items())
    if hasattr(found, "_metadata"):  # versions that modules consult to read their older layouts
        weights._metadata = OrderedDict((_strip(f"{name}.")[:-1], v) for name, v in found._metadata.items())
    return weights


def _is_plain(value: Tensor) -> bool:
    stored = value.layout == torch.strided and not (value.is_meta or value.is_nested)
    return stored and not (value.is_quantized or value.is_complex())


def _strip(name: str) -> str:
    """A key without the prefixes that wrappers for several devices put before it."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def some_of(names: list, limit: int = 2) -> str:
    """'5 (a, b, …)'"""
    more = ", …" if len(names) > limit else ""
    return f"{len(names)} ({', '.join(str(name) for name in names[:limit])}{more})"
