"""Open checkpoints without running code from them, and put their weights into a model without silent gaps.

mmengine falls back to unrestricted pickle where its safe load fails, so a hostile `.pth` runs code. Here nothing does:
what the restricted unpickler refuses is an error that names the refused object.
"""

from __future__ import annotations

import argparse
import difflib
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
# Where the weights lie in a checkpoint; without any of these keys the file itself is the state dict.
_WEIGHT_KEYS = ("state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "model_ema")
# Types of the arrays that training logs hold.
_ARRAY_TYPES = "?bhilqBHILQefdUS"


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name (on the CPU, `module.` prefixes removed) and the `meta` that mmengine wrote beside them."""

    path: Path
    weights: dict[str, Tensor]
    meta: dict = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes it was trained on, () where the file does not say."""
        dataset = self.meta.get("dataset_meta") or {}
        return tuple(dataset.get("classes") or dataset.get("CLASSES") or self.meta.get("CLASSES") or ())


def load_state_dict(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """Weights by name from a `.pth`, `.pt` or `.safetensors` file, on the CPU; see `read_checkpoint`."""
    return read_checkpoint(path, ema).weights


def read_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Read weights and meta of a checkpoint; no code in the file is run.

    Args:
        path: a file of `torch.save` or of safetensors. The weights are taken from its `state_dict`, its `model`, or are
            the file's own dict.
        ema: take the averaged weights instead. (mmengine's EMAHook stores the averaged ones as `state_dict`, so there
            both values give the same.)

    Raises:
        FileNotFoundError: no such file; the message names the nearest ones in the folder.
        ValueError: empty, truncated or unsafe file, or no weights in it.
    """
    path = _existing_file(path)
    content = safe_load(path)
    weights = _pick_weights(path, content, ema)
    meta = content.get("meta")
    return Checkpoint(path, weights, meta if isinstance(meta, dict) else {})


def safe_load(path: str | Path) -> dict:
    """Everything in a checkpoint file, read by the restricted unpickler; raises as `read_checkpoint` does.

    Tensors are on the CPU, and those of a current `.pth` are the mapped file itself: clone what you keep.
    """
    path = _existing_file(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dict")
    return content


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
    names = sorted(file.name for file in folder.iterdir() if file.suffix in _SUFFIXES)
    names = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4) or names[-3:]
    return f"; {where}: {', '.join(names)}" if names else f"; there is none {where}"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs the safetensors library: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from None


def _load_pickle(path: Path) -> object:
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
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except EOFError:
        raise ValueError(f"{path} is truncated: the run or copy that wrote it was cut off") from None
    # A damaged file can make the readers raise anything; torch's own text advises to open it unrestricted.
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)|unrecognized function (.+)", str(error))
        if not refused:
            raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from None
        name = refused[1] or refused[2].strip()
        raise ValueError(f"{path} would run code ({name}); refused, nothing was run") from None


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
            self.__init__(state["_log_history"], state["_count_history"], state["max_length"])
            self.__class__ = HistoryBuffer

    def no_method(owner, name):
        """In place of the `getattr` with which log buffers name their methods."""

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
