"""Channel counts that follow the backbone: a config writes ``"backbone.out_channels"`` where a number depends on it."""

from __future__ import annotations

import re
from copy import deepcopy
from difflib import get_close_matches
from functools import cached_property

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

KNOWN = ("out_channels", "strides")
REFERENCE = re.compile(r"backbone\.(\w+)(?:\[([^]]*)\])?")
PROBE = 64
"""Height and width of the image whose maps are looked at."""


def fill_channels(cfg: Config) -> None:
    """Replace every reference to a backbone in ``cfg.model``, in place.

    A reference is one of these strings, and means the backbone beside it or, deeper in the config, the nearest above:

    - ``"backbone.out_channels"``: the channels of all its maps, a list;
    - ``"backbone.out_channels[-1]"``: those of one map, a number;
    - ``"backbone.out_channels[1:]"``: those of some, a list;
    - ``"backbone.strides"``: image pixels a map pixel, likewise.

    They are read off the maps that the backbone makes of a small image, on the meta device where it can be built there,
    so any backbone of the hosts works. Random numbers are left as they were. Without a reference nothing is built.

    Raises:
        ValueError: a reference without a backbone, to something unknown, or to a map that there is not.
    """
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        for key in ("model", "tta_model"):
            if isinstance(cfg.get(key), dict):
                filled(cfg._cfg_dict[key], key, None)


def filled(value, path: str, maps: Maps | None):
    """The value without references; dicts are changed in place."""
    if isinstance(value, dict):
        if isinstance(value.get("backbone"), dict):
            maps = Maps(value["backbone"])
        for key, item in list(value.items()):
            value[key] = filled(item, f"{path}.{key}", maps)
    elif isinstance(value, (list, tuple)):
        return type(value)(filled(item, f"{path}.{index}", maps) for index, item in enumerate(value))
    elif isinstance(value, str) and (found := parse(value, path)):
        if maps is None:
            raise ValueError(f"{path}: {value!r} has no backbone to refer to; write the number")
        return maps.look_up(*found, path, value)
    return value


def parse(text: str, path: str) -> tuple[str, str | None] | None:
    """``"backbone.out_channels[1]"`` to ``("out_channels", "1")``; None for a string that is no reference."""
    found = REFERENCE.fullmatch(text)
    if not found or not (near := get_close_matches(found[1], KNOWN, n=1)):
        return None
    if found[1] != near[0]:
        raise ValueError(f"{path}: {text!r} is unknown, did you mean {text.replace(found[1], near[0])!r}?")
    return found[1], found[2]


class Maps:
    """The maps of a backbone's config, looked at when somebody asks."""

    def __init__(self, backbone: dict):
        self.backbone = backbone

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Channels and stride of every map."""
        return [(feature.shape[1], PROBE // feature.shape[-1]) for feature in probe(self.backbone)]

    def look_up(self, name: str, index: str | None, path: str, text: str) -> int | list[int]:
        values = [shape[KNOWN.index(name)] for shape in self.shapes]
        if index is None:
            return values
        try:
            return values[parse_index(index)]
        except (IndexError, ValueError):
            raise ValueError(
                f"{path}: {text!r} is not there; {self.backbone['type']} has {len(values)} maps, {name} {values}"
            ) from None


def parse_index(index: str) -> int | slice:
    """``"-1"`` to -1 and ``"1:"`` to slice(1, None)."""
    if ":" not in index:
        return int(index)
    return slice(*(int(part) if part else None for part in index.split(":", 1)))


def probe(config: dict) -> tuple[Tensor, ...]:
    """The maps that a backbone makes of one small image."""
    try:
        return run(config, "meta")
    except (RuntimeError, NotImplementedError):
        # Some backbones of the hosts read values while they are built, and some operators know no meta tensors.
        with torch.random.fork_rng(devices=[]):
            return run(config, "cpu")


@torch.no_grad()
def run(config: dict, device: str) -> tuple[Tensor, ...]:
    with torch.device(device):
        backbone = MODELS.build(deepcopy(config))
        backbone.eval()  # mmdet's return nothing
        maps = backbone(torch.zeros(1, config.get("in_channels", 3), PROBE, PROBE))
    return (maps,) if isinstance(maps, Tensor) else tuple(maps)
