"""What a benchmark measures, as a user names it: a backbone, one trunk of it, any registered backbone, a config."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS
from hybrid_dense.channels import filled
from hybrid_dense.config_file import DATA, PYTHON

# A trunk alone is that of the plain backbone of a variant; the other half of the variant is not built.
TRUNKS = {"cnn": ("PlainResNeXt", CNN_ARCHS, "{}_vit_pico"), "vit": ("PlainViT", VIT_ARCHS, "rxnano_vit_{}")}
# Arguments of a hybrid that are none of its trunks'.
JOINING = ("type", "variant", "fusion", "fusion_stages", "attend_in", "init_cfg")
DEFAULT_NECK = dict(type="HybridFPN", out_channels=256)


@dataclass(frozen=True)
class Subject:
    """One thing to be measured.

    ``kind`` is ``"backbone"``, a trunk (``"cnn"``, ``"vit"``) or ``"model"``, the whole model of the config file at
    ``path``. ``config`` builds the backbone, ``neck`` what follows it, both in the registry ``scope``. A ``folded`` one
    is measured in inference only.
    """

    name: str
    kind: str
    config: dict = field(default_factory=dict)
    neck: dict | None = None
    path: str | None = None
    scope: str | None = None
    compiled: bool = False
    folded: bool = False

    def trunks(self) -> tuple[Subject, Subject] | None:
        """Both trunks of a hybrid alone, with the hybrid's options; None for what is no hybrid."""
        from hybrid_dense import list_topologies

        if self.kind != "backbone" or self.config.get("type") not in list_topologies():
            return None
        rows = self.config["variant"].split("_vit_")
        options = {name: value for name, value in self.config.items() if name not in JOINING}
        own = ",".join(f"{name}={value!r}" for name, value in options.items())
        names = [":".join(filter(None, (kind, row, own))) for kind, row in zip(TRUNKS, rows, strict=True)]
        return tuple(replace(parse_subject(name), compiled=self.compiled) for name in names)

    def with_neck(self, neck: dict | None) -> Subject:
        """The same backbone with a neck behind it; a trunk stays alone."""
        if self.kind != "backbone":
            return self
        return replace(self, neck=self.neck or dict(neck or DEFAULT_NECK, in_channels="backbone.out_channels"))


def parse_subject(text: str) -> Subject:
    """A subject by its name.

    - ``ParallelResNeXtViT:rx50_vit_s`` or ``…:fusion=AddFusion,window=7``: a backbone of ours, with options;
    - ``cnn:rx50``, ``vit:s``, with options too: a trunk alone;
    - ``dict(type="mmdet.ResNeXt", depth=50)`` or the same as JSON: any registered backbone;
    - the path of a config file: its whole model.

    Nothing in it is run: values are literals, and a bare word is a string.

    Raises:
        ValueError: it is none of these; the message names the nearest.
    """
    text = text.strip()
    if text.startswith(("dict(", "{")):
        config = parse_config(text)
        return Subject(title(config), "backbone", config, scope=scope_of(config))
    if text.endswith((PYTHON, *DATA)):
        return Subject(text, "model", path=text)
    head, _, rest = text.partition(":")
    size, _, options = rest.partition(":")
    options = parse_options(options)
    if head in TRUNKS:
        backbone, rows, variant = TRUNKS[head]
        if size not in rows:
            raise ValueError(f"{text!r}: unknown {head} {size!r}, {nearest(size, rows)} There are {', '.join(rows)}")
        return Subject(text, head, dict(type=backbone, variant=variant.format(size), **options))
    known = own_backbones()
    if head not in known:
        raise ValueError(
            f"unknown subject {text!r}, {nearest(head, [*known, *TRUNKS])} It is a backbone such as "
            "ParallelResNeXtViT:rx50_vit_s, a trunk such as cnn:rx50 or vit:s, another package's as "
            "'dict(type=\"mmdet.ResNeXt\", depth=50)', or a config file"
        )
    if not size:
        raise ValueError(f"{text!r} needs a variant, such as {head}:rx50_vit_s")
    return Subject(text, "backbone", dict(type=head, variant=size, **options))


def own_backbones() -> list[str]:
    """The registered classes that are built from a variant."""
    classes = {name: value for name, value in MODELS.module_dict.items() if isinstance(value, type)}
    return sorted(name for name, value in classes.items() if "variant" in inspect.signature(value).parameters)


def nearest(name: str, known: Iterable[str]) -> str:
    return f"did you mean {get_close_matches(name, list(known), n=1, cutoff=0.0)[0]!r}?"


def parse_options(text: str) -> dict:
    """``fusion=AddFusion,window=7`` to ``{"fusion": {"type": "AddFusion"}, "window": 7}``."""
    options = parse_config(f"dict({text})")
    if isinstance(options.get("fusion"), str):
        options["fusion"] = dict(type=options["fusion"])
    return options


def parse_config(text: str) -> dict:
    """A dict written in Python or JSON, without running it.

    Raises:
        ValueError: it is no dict of literals.
    """
    try:
        config = json.loads(text)
    except ValueError:
        try:
            config = literal(ast.parse(text, mode="eval").body)
        except SyntaxError:
            raise ValueError(f"{text!r} is no dict; write name=value,name=value or dict(type=…, …)") from None
        except (ValueError, TypeError):  # a call, or a key that cannot be one
            raise ValueError(f"{text!r} has more than literals and dict(…) in it; nothing else is read") from None
    if not isinstance(config, dict):
        raise ValueError(f"{text!r} is no dict; write dict(type=…, …)")
    return config


def literal(node: ast.AST):
    """The value of a literal, of ``dict(name=literal)``, or of a bare word, which stands for its own text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {literal(key): literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [literal(item) for item in node.elts]
    return ast.literal_eval(node)


def title(config: dict) -> str:
    """``{"type": "mmdet.ResNeXt", "depth": 50}`` as ``mmdet.ResNeXt(depth=50)``."""
    if not isinstance(config.get("type"), str):
        raise ValueError(f"{config} has no type; write dict(type=…, …)")
    return f"{config['type']}({', '.join(f'{name}={value!r}' for name, value in config.items() if name != 'type')})"


def scope_of(config: dict) -> str | None:
    """``mmdet.ResNeXt`` lives in mmdet's registry; a plain name in the root."""
    scope, _, name = config["type"].rpartition(".")
    return scope or None


def build(subject: Subject) -> nn.Module:
    """The module of a backbone (and neck) or trunk with random weights: images (b, 3, H, W) to a tuple of tensors.

    Raises:
        ValueError: its class is not registered or refuses its arguments.
    """
    if subject.kind == "model":
        raise ValueError(f"{subject.name} is a whole model; its host builds it")
    with DefaultScope.overwrite_default_scope(subject.scope):
        check_registered(subject.config["type"])
        try:
            configs = dict(backbone=deepcopy(subject.config))
            if subject.neck is not None:
                configs = filled(dict(configs, neck=deepcopy(subject.neck)), "subject", None)
            backbone = MODELS.build(configs["backbone"])
            neck = MODELS.build(configs["neck"]) if "neck" in configs else None
        except (KeyError, TypeError, AssertionError) as error:
            reason = error.args[0] if error.args else type(error).__name__
            raise ValueError(f"{subject.name} cannot be built: {reason}") from error
    if subject.kind in TRUNKS:
        return Trunk(getattr(backbone, subject.kind))
    return Network(backbone, neck)


def check_registered(name: str) -> None:
    if MODELS.get(name) is None:
        scope, _, bare = name.rpartition(".")
        registry = MODELS.children.get(scope, MODELS)
        known = [f"{scope}.{key}" if scope else key for key in registry.module_dict]
        raise ValueError(f"no registered backbone is called {name!r}, {nearest(name, known)}")


class Network(nn.Module):
    """A backbone and the neck behind it, if any."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None = None):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = as_maps(self.backbone(images))
        return maps if self.neck is None else as_maps(self.neck(maps))


class Trunk(nn.Module):
    """A trunk alone, on images laid out as its hybrid lays them out."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return as_maps(self.trunk(images.contiguous(memory_format=torch.channels_last)))


def as_maps(output) -> tuple[Tensor, ...]:
    maps = (output,) if isinstance(output, Tensor) else output
    if not isinstance(maps, (tuple, list)) or not all(isinstance(item, Tensor) for item in maps):
        raise ValueError(f"a backbone hands on a tensor or a tuple of tensors, not {type(output).__name__}")
    return tuple(maps)
