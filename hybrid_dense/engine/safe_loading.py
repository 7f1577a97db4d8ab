"""Make mmengine open every checkpoint as `engine.checkpoint` does: without running code from it.

mmengine's own loaders fall back to unrestricted pickle where the safe way fails, and those of downloads do not even try
it. Importing this module puts ours in their place, for `load_from`, `--resume`, ``init_cfg=dict(type="Pretrained")``,
EMA, every Runner and strategy that loads through mmengine, and the hosts' own tools in the same process.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.fileio import get_file_backend
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from hybrid_dense.engine.checkpoint import is_trusted, read_file
from hybrid_dense.engine.download import fetch_url, leader_first

# mmengine logs the functions' names from the eleventh letter on.


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename, map_location=None):
    """A file on this machine. Tensors are in memory of their own: the run may write over the file."""
    path = Path(filename).expanduser()
    return disarm(read_file(path, map_location), path.parent)


@CheckpointLoader.register_scheme(prefixes=("http://", "https://"), force=True)
def load_from_http(filename, map_location=None):
    """A download, kept in torch's hub cache; in a distributed run one process of each machine fetches it."""
    path = leader_first(lambda: fetch_url(filename))
    return disarm(read_file(path, map_location, trust=is_trusted(filename)))


@CheckpointLoader.register_scheme(prefixes=("modelzoo://", "torchvision://"), force=True)
def load_from_torchvision(filename, map_location=None):
    return load_from_http(_address(mmengine_checkpoint.get_torchvision_models(), filename), map_location)


@CheckpointLoader.register_scheme(prefixes=("open-mmlab://", "openmmlab://"), force=True)
def load_from_openmmlab(filename, map_location=None):
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    address = _address(mmengine_checkpoint.get_external_models(), filename, renamed)
    if address.startswith(("http://", "https://")):
        return load_from_http(address, map_location)
    return load_from_local(Path(mmengine_checkpoint._get_mmengine_home(), address), map_location)


@CheckpointLoader.register_scheme(prefixes="mmcls://", force=True)
def load_from_mmcls(filename, map_location=None):
    content = load_from_http(_address(mmengine_checkpoint.get_mmcls_models(), filename), map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(content)


@CheckpointLoader.register_scheme(prefixes=(r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), force=True)
def load_from_ceph(filename, map_location=None):
    backend = get_file_backend(filename, backend_args={"backend": "petrel"})
    return _load_bytes(filename, backend.get(filename), map_location)


@CheckpointLoader.register_scheme(prefixes="pavi://", force=True)
def load_from_pavi(filename, map_location=None):
    from pavi import modelcloud

    model = modelcloud.get(filename.removeprefix("pavi://"))
    with TemporaryDirectory() as folder:
        path = Path(folder, Path(model.name).name)
        model.download(str(path))
        return disarm(read_file(path, map_location, trust=is_trusted(filename)))


def disarm(content, folder: Path | None = None):
    """Take out of a checkpoint, in place, what mmengine would execute or delete on its word; returns the checkpoint.

    - ``meta["config"]``: Runner.resume executes it as Python, to compare a number of GPUs that mmengine no longer
      writes there.
    - the message hub says which checkpoints of the run a new one replaces: only names in the checkpoint's own
      ``folder`` stay, wherever that now is.
    """
    if not isinstance(content, dict):
        return content
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)
    hub = content.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    for name, value in list(info.items()) if isinstance(info, dict) else ():
        # CheckpointHook, mmengine's and ours, deletes what these three say.
        if name == "keep_ckpt_ids":
            kept = value if _are(int, value) else []
        elif name == "mid_epoch_ckpts":
            names = [Path(file).name for file in value] if _are(str, value) else []
            kept = [file for file in names if file.endswith(".pth")]
        elif str(name).startswith(("best_ckpt", "last_ckpt")):
            file = Path(value).name if isinstance(value, str) else ""
            kept = str(folder / file) if folder is not None and file.endswith(".pth") else None
        else:
            continue
        info[name] = kept
    return content


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _address(models: dict, filename: str, renamed: dict | None = None) -> str:
    """What a table of models says of the name behind the scheme."""
    scheme, _, name = filename.partition("://")
    name = (renamed or {}).get(name, name)
    if name not in models:
        near = get_close_matches(name, models, n=3, cutoff=0.4)
        raise ValueError(f"{scheme} knows no model {name!r}" + (f", did you mean {', '.join(near)}?" if near else ""))
    return models[name]


def _load_bytes(filename: str, content: bytes, map_location):
    with TemporaryDirectory() as folder:
        path = Path(folder, Path(filename).name)
        path.write_bytes(content)
        return disarm(read_file(path, map_location, trust=is_trusted(filename)))
