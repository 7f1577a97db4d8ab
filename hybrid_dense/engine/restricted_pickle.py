"""The reader behind `engine.checkpoint`: torch's restricted unpickler, with the few types that training states need."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

# Types of the arrays that training logs hold.
_ARRAY_TYPES = "?bhilqBHILQefdUS"


def load_pickle(path: Path, map_location, mapped: bool) -> object:
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
