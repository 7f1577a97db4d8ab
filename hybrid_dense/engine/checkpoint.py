"""Open checkpoints without running code from them, and put their weights into a model without silent gaps.

mmengine falls back to unrestricted pickle where its safe load fails, so a hostile `.pth` runs code. Here nothing does:
what the restricted unpickler refuses is an error that names the refused object.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
# Where the weights lie in a checkpoint; without any of these keys the file itself is the state dict.
_WEIGHT_KEYS = ("state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "model_ema")
# Types of the arrays that training logs hold.
_ARRAY_TYPES = "?bhilqBHILQefdUS"
# Under this name the metadata of a `.safetensors` file holds the model card, as JSON.
CARD_KEY = "hybrid_dense"

# Files, folders and addresses that the user vouches for.
_trusted: set[str] = set()


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name (on the CPU, `module.` prefixes removed) and the `meta` that mmengine wrote beside them.

    `meta["card"]` is the model card of an exported file, as JSON has it.
    """

    path: Path
    weights: dict[str, Tensor]
    meta: dict = field(default_factory=dict)

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
    path = _existing_file(path)
    content = safe_load(path, trust)
    weights = _pick_weights(path, content, ema)
    meta = content.get("meta")
    return Checkpoint(path, weights, meta if isinstance(meta, dict) else {})


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
    return _load_pickle(path, map_location, mapped)


def load_weights(model: nn.Module, weights: str | Path | Checkpoint) -> None:
    """Load a checkpoint into `model`, all of it.

    Keys that the model does not know are a warning; missing keys and wrong shapes are an error, because a head that
    silently stays random is the costliest of mistakes.

    Raises:
        ValueError: one line with how many keys are missing, of another shape or unexpected, and the first of each.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    try:
        missing, unexpected = model.load_state_dict(checkpoint.weights, strict=False)
    except RuntimeError:  # torch's own report of wrong shapes is one line a tensor
        own = model.state_dict()
        mismatched = [k for k in checkpoint.weights if k in own and checkpoint.weights[k].shape != own[k].shape]
        if not mismatched:
            raise
        missing = [key for key in own if key not in checkpoint.weights]
        unexpected = [key for key in checkpoint.weights if key not in own]
    else:
        mismatched = []
    # Files from before batch norm counted its batches are complete without the counters.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or mismatched:
        raise ValueError(_misfit(model, checkpoint, missing, mismatched, unexpected))
    if unexpected:
        warnings.warn(f"{checkpoint.path}: {_some(unexpected)} not in the model, left out", stacklevel=2)


def count_classes(model: nn.Module) -> int | None:
    """Number of classes that the model's heads tell apart, None where no head says."""
    heads = [module for name, module in model.named_modules() if not name.startswith("backbone")]
    counts = [head.num_classes for head in heads if isinstance(getattr(head, "num_classes", None), int)]
    # The largest, because a region proposal head counts one class beside the real ones.
    return max(counts, default=None)


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


def _load_pickle(path: Path, map_location, mapped: bool) -> object:
    """A file of `torch.save`, through the restricted unpickler and nothing else."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the run that wrote it was cut off")
    try:
        is_archive = zipfile.is_zipfile(path)
        if not is_archive and _starts_like_archive(path):
            raise EOFError
        with torch.serialization.safe_globals(_training_state_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd files; the error below says it all
            # Only archives can be mapped; mapping spares the memory of the optimizer's state.
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=mapped and is_archive)
            _refuse_forged_arrays(content, set())
            return content
    except EOFError:
        raise ValueError(f"{path} is truncated: the run or copy that wrote it was cut off") from None
    # A damaged file can make the readers raise anything; torch's own text advises to open it unrestricted.
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)|unrecognized function (.+)", str(error))
        if not refused:
            raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from None
        name = refused[1] or refused[2].strip()
        raise ValueError(
            f"{path} would run code ({name}); refused, nothing was run. --trust-checkpoint (in Python: trust=True) "
            "opens it all the same: only if you know who made it"
        ) from None


def _refuse_forged_arrays(value: object, seen: set[int]) -> None:
    """Raise for an array whose numbers pass for addresses of objects: numpy believes what a pickle says of a type."""
    if isinstance(value, np.ndarray):
        if value.dtype.fields or value.dtype.subdtype or value.dtype.hasobject:
            raise ValueError("an array of numbers with fields of objects")
    elif isinstance(value, (dict, list, tuple, set, argparse.Namespace)) and id(value) not in seen:
        seen.add(id(value))
        items = value.values() if isinstance(value, dict) else vars(value) if hasattr(value, "__dict__") else value
        for inner in (*items, *getattr(value, "__dict__", {}).values()):
            _refuse_forged_arrays(inner, seen)


def _starts_like_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _training_state_globals() -> list:
    """What training scripts store beside the weights: mmengine's log buffers with the numpy arrays and numbers in them,
    and the command line's arguments (DeiT, MAE, DINO)."""
    from mmengine.logging import HistoryBuffer

    class LogBuffer(HistoryBuffer):
        def __setstate__(self, state):
            # The numbers alone: the original lets a file exchange its methods for the whole process.
            histories = state["_log_history"], state["_count_history"]
            _refuse_forged_arrays(histories, set())
            self.__init__(*histories, state["max_length"])
            self.__class__ = HistoryBuffer

    def no_method(owner, name):
        """In place of the `getattr` with which log buffers name their methods."""

    def no_bytes():
        """The data of an empty array, which pickle writes as this call."""
        return b""

    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in _ARRAY_TYPES},
        # numpy 1 wrote numpy.core, numpy 2 writes numpy._core; a file may come from either.
        *[(f, f"numpy.{core}.multiarray.{f.__name__}") for core in ("core", "_core") for f in (reconstruct, scalar)],
        # Stand-ins: the file names the right-hand side and gets the left.
        (LogBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
        (no_method, "builtins.getattr"),
        (no_bytes, "builtins.bytes"),
        (dict, "mmengine.config.config.ConfigDict"),
    ]


def _pick_weights(path: Path, content: Mapping, ema: bool) -> OrderedDict[str, Tensor]:
    if ema and "ema_state_dict" not in content:
        found = next((content[key] for key in _EMA_KEYS if isinstance(content.get(key), Mapping)), None)
        if found is None:
            raise ValueError(f"{path} holds no averaged (EMA) weights, only: {_some(list(content))}")
    else:
        found = next((content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), Mapping)), content)
    weights = OrderedDict((name, value) for name, value in found.items() if isinstance(value, Tensor))
    if not weights:
        raise ValueError(f"{path} is not a checkpoint: no weights in it, only: {_some(list(found))}")
    # Copies, because the tensors may still be the mapped file, which a training run may overwrite at any time.
    # A small file may claim huge tensors, by a stride of 0; their copies would not fit into the memory.
    claimed = next((n for n, v in weights.items() if v.numel() * v.element_size() > v.untyped_storage().nbytes()), None)
    if claimed is not None:
        raise ValueError(f"{path} is no checkpoint: {claimed} claims more values than the file holds")
    weights = OrderedDict((_strip(name), value.clone()) for name, value in weights.items())
    if hasattr(found, "_metadata"):  # versions that modules consult to read their older layouts
        weights._metadata = OrderedDict((_strip(f"{name}.")[:-1], v) for name, v in found._metadata.items())
    return weights


def _strip(name: str) -> str:
    """A key without the prefixes that wrappers for several devices put before it."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _misfit(model: nn.Module, checkpoint: Checkpoint, missing: list, mismatched: list, unexpected: list) -> str:
    """One line on why the checkpoint does not fit the model."""
    parts = []
    trained, built = len(checkpoint.class_names), count_classes(model)
    if mismatched and trained and built and trained != built:
        parts.append(f"it was trained on {trained} classes and the model has {built}")
    if mismatched:
        own = model.state_dict()
        shapes = [f"{k} {_shape(checkpoint.weights[k])} in the file, {_shape(own[k])} in the model" for k in mismatched]
        parts.append(f"{_some(shapes)} of another shape")
    if missing:
        parts.append(f"{_some(missing)} missing")
    if unexpected:
        parts.append(f"{_some(unexpected)} unexpected")
    return f"{checkpoint.path} does not fit the model: {'; '.join(parts)}"


def _some(names: list, limit: int = 2) -> str:
    """'5 (a, b, …)'"""
    more = ", …" if len(names) > limit else ""
    return f"{len(names)} ({', '.join(str(name) for name in names[:limit])}{more})"


def _shape(tensor: Tensor) -> str:
    return "×".join(str(side) for side in tensor.shape) or "scalar"
