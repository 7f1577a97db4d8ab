"""Put the weights of a checkpoint into a model without silent gaps."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor, nn

from hybrid_dense.engine.checkpoint import Checkpoint, read_checkpoint, some_of


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
        warnings.warn(f"{checkpoint.path}: {some_of(unexpected)} not in the model, left out", stacklevel=2)


def count_classes(model: nn.Module) -> int | None:
    """Number of classes that the model's heads tell apart, None where no head says."""
    heads = [module for name, module in model.named_modules() if not name.startswith("backbone")]
    counts = [head.num_classes for head in heads if isinstance(getattr(head, "num_classes", None), int)]
    # The largest, because a region proposal head counts one class beside the real ones.
    return max(counts, default=None)


def _misfit(model: nn.Module, checkpoint: Checkpoint, missing: list, mismatched: list, unexpected: list) -> str:
    """One line on why the checkpoint does not fit the model."""
    parts = []
    trained, built = len(checkpoint.class_names), count_classes(model)
    if mismatched and trained and built and trained != built:
        parts.append(f"it was trained on {trained} classes and the model has {built}")
    if mismatched:
        own = model.state_dict()
        shapes = [f"{k} {_shape(checkpoint.weights[k])} in the file, {_shape(own[k])} in the model" for k in mismatched]
        parts.append(f"{some_of(shapes)} of another shape")
    if missing:
        parts.append(f"{some_of(missing)} missing")
    if unexpected:
        parts.append(f"{some_of(unexpected)} unexpected")
    return f"{checkpoint.path} does not fit the model: {'; '.join(parts)}"


def _shape(tensor: Tensor) -> str:
    return "×".join(str(side) for side in tensor.shape) or "scalar"
