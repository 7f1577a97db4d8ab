"""Read a config from a file and write it as data.

A `.py` config is a program and is run. A `.yaml`, `.yml` or `.json` config is data: it is parsed by readers that make
nothing but values, its `_base_` files are data too, and it may name registered parts only (`config_data.check`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from hybrid_dense.config_data import check, to_data

PYTHON = ".py"
DATA = (".yaml", ".yml", ".json")
# What JSON has no word for: ``{"_tuple_": [1333, 800]}``.
TUPLE = "_tuple_"
PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def read_config(path: str | Path) -> Config:
    """The config in a file, with the modules that its `custom_imports` names imported.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a config's suffix, text that cannot be parsed, or a data config that asks for more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such config: {path}")
    if path.suffix == PYTHON:
        return Config.fromfile(path)
    if path.suffix not in DATA:
        raise ValueError(f"{path} is no config: one ends in {', '.join((PYTHON, *DATA))}")
    try:
        content = _with_bases(path, ())
        check(content, path)
    except RecursionError:
        raise ValueError(f"{path} refers to itself, or is nested too deeply for a config") from None
    if content.get("custom_imports"):
        import_modules_from_strings(**content["custom_imports"])
    return Config(content, filename=str(path))


def write_config(cfg: Config, path: str | Path) -> None:
    """Write a config, its bases included, as data: `.yaml`, `.yml` or `.json`.

    Raises:
        ValueError: another suffix, or a value that is no data; the message says where.
    """
    path = Path(path)
    if path.suffix not in DATA:
        raise ValueError(f"a config as data ends in {', '.join(DATA)}, not {path.suffix or 'nothing'}: {path}")
    path.write_text(write_text(to_data(cfg), path.suffix))


def read_text(text: str, suffix: str) -> object:
    """The values in a text of JSON or YAML; raises ValueError where it is none."""
    if suffix == ".json":
        return json.loads(text, object_hook=lambda found: tuple(found[TUPLE]) if found.keys() == {TUPLE} else found)
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def write_text(content: object, suffix: str) -> str:
    """The inverse of `read_text`."""
    if suffix == ".json":
        return json.dumps(_mark_tuples(content), indent=2) + "\n"
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Values, and tuples as mmengine writes them; every other tag of Python is refused."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
# YAML 1.1 takes 1e-4 for a word; nobody who writes a learning rate does.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(
    tuple, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:python/tuple", values, flow_style=True)
)


def _mark_tuples(value: object) -> object:
    if isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise ValueError(f"JSON has no key like {wrong!r}; write YAML")
        return {key: _mark_tuples(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [_mark_tuples(inner) for inner in value]}
    return [_mark_tuples(inner) for inner in value] if isinstance(value, list) else value


def _with_bases(path: Path, below: tuple[Path, ...]) -> dict:
    """What a data config and its bases say together, the nearer the stronger."""
    if path.resolve() in below:
        raise ValueError(f"{path} is a _base_ of itself")
    try:
        content = read_text(path.read_text(encoding="utf-8"), path.suffix)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} is no config: it holds no names with values")
    content = _fill_placeholders(content, path)
    bases, merged = content.pop("_base_", []), {}
    for base in bases if isinstance(bases, list) else [bases]:
        inherited = _with_bases(_find_base(base, path), (*below, path.resolve()))
        twice = merged.keys() & inherited.keys()
        if twice:
            raise ValueError(f"{path}: more than one _base_ sets {', '.join(sorted(twice))}")
        merged |= inherited
    if not merged:
        return content
    merged = Config(merged)
    try:
        merged.merge_from_dict(content, allow_list_keys=False)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not fit its _base_: {' '.join(str(error).split())}") from None
    return merged.to_dict()


def _find_base(base: object, path: Path) -> Path:
    if not isinstance(base, str):
        raise ValueError(f"{path}: _base_ {base!r} is no file name")
    if "::" in base or not base.endswith(DATA):
        raise ValueError(
            f"{path}: _base_ {base!r} would run Python, and this config is data; write the base as data, "
            f"hybrid-dense configs --dump {base} {Path(base).stem}.yaml, or this config as .py"
        )
    found = path.parent / base
    if not found.is_file():
        raise FileNotFoundError(f"{path}: no such _base_: {found}")
    return found


def _fill_placeholders(value: object, path: Path) -> object:
    """mmengine's ``{{ fileDirname }}`` and its kin; the others would bring in what the file does not say."""
    if isinstance(value, dict):
        return {key: _fill_placeholders(inner, path) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fill_placeholders(inner, path) for inner in value)
    if not isinstance(value, str) or "{{" not in value:
        return value
    words = {
        "fileDirname": str(path.absolute().parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    filled = PLACEHOLDER.sub(lambda match: words.get(match[1], match[0]), value)
    if "{{" in filled:
        raise ValueError(f"{path}: {value!r} is filled in Python configs only; here there are {', '.join(words)}")
    return filled
