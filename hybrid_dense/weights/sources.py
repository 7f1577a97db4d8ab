"""Where weights come from: a file, a folder, a URL, torchvision, timm, the Hugging Face hub, or a state dict."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hybrid_dense.engine.checkpoint import is_trusted, safe_load
from hybrid_dense.engine.download import fetch_url, leader_first, mend

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the Hugging Face hub calls its weights, the preferred first."""

# Of torchvision's own table (torchvision.models.resnet) what a row of `archs.CNN_ARCHS` fits, V1 and V2 of each.
TORCHVISION_URL = "https://download.pytorch.org/models/"
TORCHVISION_FILES = {
    "resnet50": ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
    "resnext50_32x4d": ("resnext50_32x4d-7cdf4587.pth", "resnext50_32x4d-1a0047aa.pth"),
}

FORMS = "a path, a URL, torchvision://name, timm://name, hf://organisation/name, or a state dict"


def read_source(source: str | Path | Mapping) -> Mapping:
    """Everything that a source holds; nothing in it is run.

    Args:
        source: a file (`.pth`, `.pt`, `.bin`, `.safetensors`); a folder with a hub snapshot; `http(s)://…`, kept in
            torch's hub cache; `torchvision://resnext50_32x4d` (V1) or `torchvision://resnext50_32x4d.IMAGENET1K_V2`;
            `timm://vit_small_patch16_224.augreg_in21k`; `hf://facebook/dinov2-small` or `hf://organisation/name/file`;
            a mapping, which is returned as it is.

    Raises:
        FileNotFoundError: no such file, or it could not be downloaded.
        ValueError: unknown form or name, a wrong hash, a damaged or unsafe file.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"unknown source {source!r}; weights come from {FORMS}")
    scheme, is_remote, name = str(source).partition("://")
    scheme = scheme.lower()
    if not is_remote:
        return safe_load(find_file(Path(source).expanduser()))
    if scheme not in FETCHERS:
        raise ValueError(f"unknown source {source!r}; weights come from {FORMS}")
    path = leader_first(lambda: FETCHERS[scheme](str(source), name))
    try:
        return safe_load(path, trust=is_trusted(source))
    except ValueError as error:
        raise ValueError(f"{error}; it came from {source}, delete it to download it anew") from None


def describe_source(source: str | Path | Mapping) -> str:
    """The source in a word, for reports and messages."""
    return "state dict" if isinstance(source, Mapping) else str(source)


def find_file(path: Path) -> Path:
    """The weights in a folder like a hub snapshot; anything else is returned as it is."""
    return next((path / name for name in HUB_FILES if (path / name).is_file()), path)


def fetch_torchvision(source: str, name: str) -> Path:
    name, _, version = name.partition(".")
    files = TORCHVISION_FILES.get(name)
    if files is None:
        raise ValueError(
            f"unknown source {source!r}; of torchvision {' and '.join(TORCHVISION_FILES)} fit a variant, and for rx101 "
            f"there is timm://resnext101_32x4d.gluon_in1k"
        )
    versions = {f"IMAGENET1K_V{number}": file for number, file in enumerate(files, start=1)}
    if version and version not in versions:
        raise ValueError(f"unknown source {source!r}; of {name} there is {', '.join(versions)}")
    return fetch_url(TORCHVISION_URL + versions[version or "IMAGENET1K_V1"])


def fetch_timm(source: str, name: str) -> Path:
    return fetch_hub(source, f"timm/{name}")


def fetch_hub(source: str, name: str) -> Path:
    """Download one file of a repository of the Hugging Face hub into the hub library's cache, unless it is there."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ValueError(f"{source} needs the library of the Hugging Face hub: pip install huggingface_hub") from None
    organisation, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (organisation and repository):
        raise ValueError(f"unknown source {source!r}; write hf://organisation/name or hf://organisation/name/file")
    failures = []
    for candidate in (file,) if file else HUB_FILES:
        try:
            return Path(hf_hub_download(f"{organisation}/{repository}", candidate))
        except Exception as error:  # the library raises those of its transport, too
            failures.append(f"{candidate}: {type(error).__name__}")
    raise FileNotFoundError(f"could not download {source} ({', '.join(failures)}); {mend('the file')}")


FETCHERS: dict[str, Callable[[str, str], Path]] = {
    "http": lambda source, _: fetch_url(source),
    "https": lambda source, _: fetch_url(source),
    "torchvision": fetch_torchvision,
    "timm": fetch_timm,
    "hf": fetch_hub,
}
