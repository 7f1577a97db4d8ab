"""What ``paramwise_cfg`` of `HybridLayerDecay` says, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches

from hybrid_dense.engine.parts import BRANCHES

# Branches whose rates fall with the depth: those that come pretrained, in layers.
LAYERED = ("cnn", "vit", "backbone")


@dataclass(frozen=True)
class Rates:
    """What ``paramwise_cfg`` of ``HybridLayerDecay`` says.

    Args:
        layer_decay: a layer's rate over that of the next one, in (0, 1]; a dict such as ``dict(cnn=0.95, vit=0.7)``
            gives each trunk its own.
        cnn, vit, fusion, neck, head: multipliers of the branches. ``head`` is all that is neither backbone nor neck.
        backbone: the multiplier of a backbone that does not say which trunk a parameter is of (no ``get_part``).
        norm_decay_mult, bias_decay_mult: multipliers of the weight decay of norms and biases, by mmengine's names.
        custom_keys: for parameters whose names contain a key, ``{"pos_embed": dict(lr_mult=…, decay_mult=…)}``: the
            first multiplies the rate that branch and depth give, the second replaces the rule on weight decay. The
            longest key counts.

    Raises:
        ValueError: a key that there is not, with the nearest; a multiplier that is negative or no number.
    """

    layer_decay: float | dict = 1.0
    cnn: float = 1.0
    vit: float = 1.0
    fusion: float = 1.0
    backbone: float = 1.0
    neck: float = 1.0
    head: float = 1.0
    norm_decay_mult: float = 0.0
    bias_decay_mult: float = 0.0
    custom_keys: dict = field(default_factory=dict)

    @classmethod
    def read(cls, config: dict) -> Rates:
        check_keys("paramwise_cfg", config, [known.name for known in fields(cls)])
        rates = cls(**config)
        decays = rates.layer_decay
        if isinstance(decays, dict):
            check_keys("paramwise_cfg.layer_decay", decays, LAYERED)
        for decay in decays.values() if isinstance(decays, dict) else (decays,):
            if not is_number(decay) or not 0 < decay <= 1:
                raise ValueError(f"layer_decay {decay!r} is not above 0 and at most 1; 1.0 does not decay")
        for name in (*BRANCHES, "norm_decay_mult", "bias_decay_mult"):
            check_multiplier(f"paramwise_cfg.{name}", getattr(rates, name))
        for key, options in rates.custom_keys.items():
            check_keys(f"paramwise_cfg.custom_keys[{key!r}]", options, ("lr_mult", "decay_mult"))
            for name, value in options.items():
                check_multiplier(f"paramwise_cfg.custom_keys[{key!r}].{name}", value)
        return rates

    def decay_of(self, branch: str) -> float:
        """The layer decay of a branch."""
        if branch not in LAYERED:
            return 1.0
        return self.layer_decay.get(branch, 1.0) if isinstance(self.layer_decay, dict) else self.layer_decay

    def custom(self, name: str) -> dict:
        """The options of the longest key that is in the name."""
        keys = [key for key in sorted(self.custom_keys) if key in name]
        return self.custom_keys[max(keys, key=len)] if keys else {}


def check_keys(where: str, config: dict, known) -> None:
    if not isinstance(config, dict):
        raise ValueError(f"{where} is {config!r}, not a dict of {', '.join(known)}")
    for key in config:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{where} has an unknown key {key!r}, did you mean {near!r}? HybridLayerDecay reads {', '.join(known)}"
            )


def check_multiplier(where: str, value: float) -> None:
    if not is_number(value) or value < 0:
        raise ValueError(f"{where}={value!r} is no multiplier; give a number from 0 up")


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
