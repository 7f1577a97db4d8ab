"""Whether a checkpoint is one of this training, seen before anything is taken from it.

torch and mmengine take what they can get: moments of another model's weights, which crash the first step, or weights
without the schedule that belongs to them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from hybrid_dense.engine.checkpoint import some_of

_START = "to start a new training from its weights: --cfg-options load_from=…, without --resume"


def check_resumable(
    checkpoint: Mapping, path: str, model: nn.Module | None, optimizer: Optimizer | None, with_optimizer: bool
) -> None:
    """Refuse to go on from a checkpoint that is not of this model and optimizer, or of no training at all.

    Args:
        checkpoint: its content.
        path: where it is from, for the message.
        model: the one that is trained, without wrappers; None where its parameters are not those of a checkpoint.
        optimizer: None likewise, and where there are several.
        with_optimizer: whether checkpoints of this training hold the state of the optimizer.

    Raises:
        ValueError: one line on what does not fit, and the mend.
    """
    meta = checkpoint.get("meta", {})
    absent = [name for name in ("epoch", "iter") if name not in meta]
    if with_optimizer and "optimizer" not in checkpoint:
        absent.append("optimizer")
    if absent:
        raise ValueError(f"{path} holds weights, but no training to go on with (no {absent[-1]}); {_START}")
    weights = checkpoint.get("state_dict", {})
    strange = [
        name
        for name, parameter in (model.named_parameters() if model else ())
        if name not in weights or weights[name].shape != parameter.shape
    ]
    if strange:
        raise ValueError(f"{path} is of another model: {some_of(strange)} missing in it or of another shape; {_START}")
    groups = checkpoint.get("optimizer", {}).get("param_groups")
    if optimizer is not None and groups:
        _check_groups(path, groups, optimizer.param_groups)


def take_trained_weights(checkpoint: dict) -> bool:
    """Let a training that averages no weights go on with those that were trained, where the checkpoint holds both.

    EMAHook saves its average as the model. Returns whether there were others, which are now the model's.
    """
    trained = checkpoint.get("ema_state_dict")
    if not trained:
        return False
    weights = checkpoint["state_dict"]
    for name in weights:
        weights[name] = trained.get(f"module.{name}", weights[name])
    return True


def _check_groups(path: str, saved: list[dict], ours: list[dict]) -> None:
    """One line instead of a KeyError in the first step; parameters are matched by their place in the groups."""
    sizes, our_sizes = ([len(group["params"]) for group in groups] for groups in (saved, ours))
    if sizes != our_sizes:
        raise ValueError(
            f"{path} is of another optimizer: it has {sum(sizes)} parameters in {len(sizes)} groups, this one "
            f"{sum(our_sizes)} in {len(our_sizes)}; optim_wrapper's constructor and paramwise_cfg must stay as they "
            f"were; {_START}"
        )
    theirs, own = sorted(set(saved[0]) - set(ours[0])), sorted(set(ours[0]) - set(saved[0]))
    if theirs and own:  # another version of torch adds some or takes some away
        raise ValueError(
            f"{path} is of another optimizer, one with {', '.join(theirs)}; this one has {', '.join(own)}; {_START}"
        )
