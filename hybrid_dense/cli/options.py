"""Changes to a config from the command line: every key is checked before anything starts."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hybrid_dense.cli import CommandError
from hybrid_dense.registered import find_class

# Keys that mmengine, and we, read from the config itself, beside the runner's parameters.
READ_ELSEWHERE = {
    "data_root",
    "find_unused_parameters",
    "max_broken",
    "model_wrapper_cfg",
    "sync_bn",
    "tf32",
    "tta_model",
    "tta_pipeline",
}


def merge_options(cfg: Config, options: dict) -> None:
    """Merge ``{"model.backbone.variant": …}`` into the config, in place.

    A key must be in the config or be a parameter of the class that its part of the config names; ``+key`` is not
    checked.

    Raises:
        CommandError: an unknown key; the message names the nearest known one.
    """
    options = dict(options)
    data_root = options.pop("data_root", None)
    # Types first: they decide which other keys are known.
    for key in sorted(options, key=lambda key: not key.endswith(".type")):
        if not key.startswith("+"):
            check_key(cfg, key)
        cfg.merge_from_dict({key.lstrip("+"): options[key]})
    if data_root is not None:
        redirect_data_root(cfg, str(data_root).rstrip("/") + "/")


def check_key(cfg: Config, key: str) -> None:
    node, done = cfg._cfg_dict, []
    for part in key.split("."):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise CommandError(
                    f"--cfg-options {key}: {'.'.join(done)} is a list of {len(node)}, it has no {part!r}"
                )
            node = node[int(part)]
        elif not isinstance(node, dict):
            raise CommandError(f"--cfg-options {key}: {'.'.join(done)} is the value {node!r}, it has no {part!r}")
        elif part in node:
            node = node[part]
        else:
            known = set(node) | parameters(node, done)
            if part in known:
                return
            near = get_close_matches(part, known, n=1, cutoff=0.0)
            hint = f"; the nearest known is {'.'.join([*done, near[0]])}" if near else ""
            raise CommandError(f"--cfg-options {key}: unknown key{hint} (+{key}=… adds a new one)")
        done.append(part)


def parameters(node: dict, path: list[str]) -> set[str]:
    """Names that the class behind a part of the config takes, those of its parents included."""
    if not path:
        return set(inspect.signature(Runner.__init__).parameters) - {"self"} | READ_ELSEWHERE
    if path[-1].endswith("_dataloader"):
        return set(inspect.signature(DataLoader.__init__).parameters) - {"self"}
    owner = find_class(node.get("type"))
    names: set[str] = set()
    for cls in inspect.getmro(owner) if inspect.isclass(owner) else ():
        found = inspect.signature(cls.__init__).parameters if "__init__" in vars(cls) else {}
        names |= set(found)
        if found and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values()):
            break
    # Our backbones hand options on to their trunks and say which.
    names |= getattr(owner, "option_names", frozenset())
    if path[-1] == "optim_wrapper":  # mmengine takes them out before it builds the wrapper
        names |= {"constructor", "paramwise_cfg"}
    return names - {"self", "args", "kwargs", "options"}


def redirect_data_root(cfg: Config, data_root: str) -> None:
    """Point every path that begins with the config's ``data_root`` at another folder of the same layout."""
    old = cfg.get("data_root")
    if old is None:
        raise CommandError(f"{cfg.filename} has no data_root to redirect; set the data sets' paths one by one")

    def moved(node):
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = moved(value)
            return node
        if isinstance(node, (list, tuple)):
            return type(node)(moved(value) for value in node)
        if isinstance(node, str) and node.startswith(old):
            return data_root + node[len(old) :]
        return node

    moved(cfg._cfg_dict)
