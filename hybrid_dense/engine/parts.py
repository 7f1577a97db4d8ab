"""Which part of a model a parameter belongs to: a trunk, the fusions, the neck or the heads."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmengine.model import is_model_wrapper
from torch import nn

BRANCHES = ("cnn", "vit", "fusion", "backbone", "neck", "head")

# What FSDP, activation checkpointing and torch.compile put between the names of a model.
_WRAPPERS = re.compile(r"\b(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)(\.|$)")


@dataclass(frozen=True)
class Place:
    """Where a parameter or module stands in a model.

    Args:
        name: its name in the plain model, without what wrappers put in.
        part: such as ``cnn.stages.0``, ``vit.embed``, ``fusion``, ``neck`` or ``head``. A backbone that cannot tell its
            trunks apart is one part, ``backbone``.
        owner: the name of the backbone around it, "" outside of backbones.
    """

    name: str
    part: str
    owner: str = ""

    @property
    def branch(self) -> str:
        """One of ``BRANCHES``."""
        return self.part.split(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All that it can be called by: its part, its name in the backbone, its name in the model."""
        inside = (self.name.removeprefix(f"{self.owner}."), f"backbone.{self.part}") if self.owner else ()
        return self.part, *inside, self.name

    def is_in(self, part: str) -> bool:
        """Whether it belongs to a part, given by any of the ``names`` or by the beginning of one."""
        return any(f"{name}.".startswith(f"{part}.") for name in self.names)


class ModelParts:
    """Tells the place of everything in an mmdet or mmseg model by its name.

    Backbones and necks are the modules of these names, at any depth; whatever else there is counts as head: heads in
    lists, the encoders and queries of a DETR. A backbone says itself which part a parameter is of (``get_part``).
    """

    def __init__(self, model: nn.Module):
        modules = ((without_wrappers(name), module) for name, module in model.named_modules())
        # A wrapper comes before what it wraps, and hands on what it is asked.
        self.backbones = {name: module for name, module in reversed(list(modules)) if _owner(name) == name != ""}

    def place(self, name: str) -> Place:
        name = without_wrappers(name)
        owner = _owner(name)
        if owner:
            ask = getattr(self.backbones[owner], "get_part", None)
            return Place(name, "backbone" if ask is None else ask(name, f"{owner}."), owner)
        return Place(name, "neck" if _outermost(name) == "neck" else "head")


def unwrap(model: nn.Module) -> nn.Module:
    """The plain model, out of what DDP or another wrapper of mmengine's puts around it."""
    return model.module if is_model_wrapper(model) else model


def without_wrappers(name: str) -> str:
    """A parameter's name as the plain model has it."""
    return _WRAPPERS.sub("", name).rstrip(".")


def _outermost(name: str) -> str | None:
    """The first component of a name that says what part it is of: backbone, neck or …head."""
    return next((word for word in name.split(".") if word in ("backbone", "neck") or word.endswith("head")), None)


def _owner(name: str) -> str:
    """The name of the backbone that something is in, "" for none: ``student.backbone`` of ``student.backbone.conv``."""
    if _outermost(name) != "backbone":
        return ""
    words = name.split(".")
    return ".".join(words[: words.index("backbone") + 1])
