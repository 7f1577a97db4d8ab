"""What a config may say that is data and not a program: values, and registered parts by their names.

In mmengine a config's ``type="os.system"`` calls `os.system`, and some of the hosts' parts evaluate a text of their
config or open a pickle that it names. A config that is data must not, so `check` refuses what leads there.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from mmengine.config import Config
from mmengine.utils import get_object_from_string

from hybrid_dense.registered import find_class

SCOPES = ("mmdet", "mmseg", "mmcv", "mmengine")
IMPORTS = ("hybrid_dense", "mmdet", "mmseg", "mmcv")
# Keys whose value mmengine looks up as it does a type.
TYPE_KEYS = ("type", "constructor")
SCOPE_KEYS = ("_scope_", "default_scope")
# Files that mmengine and the hosts run or unpickle, wherever a config names them; mmengine's YAML reader obeys tags.
PROGRAMS = (".py", ".yaml", ".yml", ".pkl", ".pickle", ".np", ".npy")
# Parts that evaluate texts of their config, or open a file as a pickle whatever it is called.
EVALUATING_TYPES = ("RFSearchHook", "RefCocoDataset", "OpenImagesChallengeDataset")
# Texts that are evaluated, imported from or say that files are pickles, and what they may be.
EVALUATED_KEYS = {
    "warp_mode": re.compile(r"cv2\.MOTION_[A-Z]+"),
    "decode_backend": re.compile("numpy|nifti|cv2"),
    "sys_path": re.compile(r"(?!)"),
    "checkpoint_path": re.compile(r"(?!)"),  # timm's, which opens it without restriction
}


def check(content: dict, source: object) -> None:
    """Refuse a config that would run, import or unpickle more than the registered parts that it names.

    Args:
        content: the config.
        source: what messages call it.

    Raises:
        ValueError: one line on where and what.
    """
    imports = content.get("custom_imports")
    if imports:
        _check_imports(imports, source)
    _check(content, source)


def _check_imports(imports: object, source: object) -> None:
    names = imports.get("imports") if isinstance(imports, dict) else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or imports.keys() - {"imports", "allow_failed_imports"}:
        raise ValueError(f"{source}: custom_imports is dict(imports=[…]), got {imports!r}")
    for name in names:
        if str(name).partition(".")[0] not in IMPORTS:
            raise ValueError(
                f"{source}: custom_imports of {name!r} would run that module, and this config is data: it may import "
                f"{', '.join(IMPORTS)}; import others in a .py config"
            )


def _check(value: object, source: object, path: tuple[str, ...] = ()) -> None:
    where = f"{source}: {'.'.join(path)}"
    if isinstance(value, dict):
        for key, inner in value.items():
            place = ".".join((where, str(key))) if path else f"{where}{key}"
            if key in TYPE_KEYS and isinstance(inner, str):
                _check_type(inner, place)
            elif key in SCOPE_KEYS and inner is not None and inner not in SCOPES:
                raise ValueError(f"{place}={inner!r} is none of {', '.join(SCOPES)}")
            elif key in EVALUATED_KEYS and isinstance(inner, str) and not EVALUATED_KEYS[key].fullmatch(inner):
                raise ValueError(f"{place}={inner!r} would run Python or open a pickle, and this config is data")
            _check(inner, source, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check(inner, source, (*path, str(index)))
    elif isinstance(value, str) and value.endswith(PROGRAMS):
        raise ValueError(
            f"{where}={value!r} is a file that can run code when opened, and this config is data; name it in a .py"
        )


def _check_type(name: str, place: str) -> None:
    """A registered name, which may carry its scope: nothing that mmengine would look for among Python's modules."""
    scope, _, plain = name.rpartition(".")
    if plain.isidentifier() and plain not in EVALUATING_TYPES:
        if not scope and not _is_module(plain):
            return
        if scope in SCOPES and find_spec(scope) and not hasattr(import_module(scope), plain) and not _is_module(name):
            return
    raise ValueError(
        f"{place}={name!r} names no registered part but something of Python, and this config is data; write a "
        "registered name, or a .py config"
    )


def _is_module(name: str) -> bool:
    """Whether importing this would run anything; a mere folder of that name does not."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def to_data(cfg: Config | dict) -> dict:
    """A config as plain values: dicts, lists, tuples, texts and numbers; classes by their registered names.

    Raises:
        ValueError: a value that is none of these, such as a function; the message says where.
    """
    return _to_data(cfg.to_dict() if isinstance(cfg, Config) else cfg, "config")


def _to_data(value: object, where: str) -> object:
    if isinstance(value, dict):
        items = {key: _to_data(inner, f"{where}.{key}") for key, inner in value.items()}
        for key in TYPE_KEYS:
            if isinstance(items.get(key), str):
                items[key] = _registered_name(items[key])
        return items
    if type(value) in (list, tuple):
        return type(value)(_to_data(inner, f"{where}.{index}") for index, inner in enumerate(value))
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, type) and find_class(value.__name__) is value:
        return value.__name__
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"{where} is a {type(value).__name__} ({value!r}), which cannot be written as data")


def _registered_name(name: str) -> str:
    """`mmdet.models.detectors.mask_rcnn.MaskRCNN`, as configs with imports have it, by the name that it registers."""
    if name.count(".") < 2:
        return name
    plain = name.rpartition(".")[2]
    found = get_object_from_string(name)
    try:
        return plain if found is not None and find_class(plain) is found else name
    except RuntimeError:  # mmengine's, for a name that no registry has
        return name
