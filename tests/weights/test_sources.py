"""Weights are fetched from where they are named, opened without running anything, and failures are one line."""

import hashlib
import importlib.util
import os
import re
import sys
import threading
import types
from argparse import Namespace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from hybrid_dense.archs import CNN_ARCHS, CNNArch
from hybrid_dense.engine import download
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.download import leader_first
from hybrid_dense.weights import sources
from hybrid_dense.weights.sources import TORCHVISION_FILES, fetch_torchvision, read_source

WEIGHTS = {"w": torch.arange(4.0)}


class Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def fails(source, kind, match):
    with pytest.raises(kind, match=match) as error:
        read_source(source)
    assert "\n" not in str(error.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    return folder / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """An address under which the files of a folder are served, that folder, and what was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, _, request, *__):
            asked.append(request)

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}", folder, asked
    served.shutdown()
    served.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub library that knows the files of a folder, and what it was asked for."""
    folder, asked = tmp_path / "hub", []
    folder.mkdir()

    class LocalEntryNotFoundError(FileNotFoundError):
        pass

    def hf_hub_download(repository, file):
        asked.append(f"{repository}/{file}")
        if not (folder / file).is_file():
            raise LocalEntryNotFoundError("An error happened while trying to locate the file.\nCheck your connection.")
        return str(folder / file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    return folder, asked


def test_a_state_dict_is_itself():
    assert read_source(WEIGHTS) is WEIGHTS


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.pt", "w.safetensors"])
def test_files(tmp_path, name, monkeypatch):
    write(tmp_path / name)
    assert read_source(str(tmp_path / name))["w"].tolist() == [0, 1, 2, 3]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_source(f"~/{name}")["w"].tolist() == [0, 1, 2, 3]


def write(path, weights=WEIGHTS):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    else:
        torch.save(weights, path)


def test_the_folder_of_a_hub_snapshot(tmp_path):
    fails(tmp_path, FileNotFoundError, "is a folder; name a checkpoint file; there is none in it")
    write(tmp_path / "pytorch_model.bin", {"w": torch.zeros(1)})
    assert len(read_source(tmp_path)["w"]) == 1
    write(tmp_path / "model.safetensors")
    assert len(read_source(tmp_path)["w"]) == 4


def test_arguments_of_a_training_script_do_not_hinder(tmp_path):
    torch.save({"model": WEIGHTS, "args": Namespace(lr=0.1, model="mae_vit_base")}, tmp_path / "mae.pth")
    content = read_source(tmp_path / "mae.pth")
    assert content["args"].lr == 0.1 and content["model"]["w"].tolist() == [0, 1, 2, 3]


def test_a_hostile_file_runs_nothing(tmp_path):
    harmed, path = tmp_path / "harmed", tmp_path / "hostile.pth"
    torch.save({"model": WEIGHTS, "args": Namespace(extra=Payload(harmed))}, path)
    fails(path, ValueError, r"would run code \(posix\.mkdir\); refused")
    assert not harmed.exists() and path.exists()


@pytest.mark.parametrize(
    "source", ["open-mmlab://resnet50", "s3://bucket/w.pth", "torchvision:///x", "hf://one", "hf:///x"]
)
def test_unknown_forms(source, cache):
    pytest.importorskip("huggingface_hub")
    fails(source, ValueError, "unknown source")


def test_a_url_is_downloaded_once(server, cache):
    address, folder, asked = server
    write(folder / "w.pth")
    for _ in range(2):
        assert read_source(f"{address}/w.pth?download=true")["w"].tolist() == [0, 1, 2, 3]
    assert len(asked) == 1


def test_one_name_at_two_addresses_is_two_files(server, cache):
    address, folder, _ = server
    for number in (1, 2):
        (folder / str(number)).mkdir()
        write(folder / str(number) / "model.safetensors", {"w": torch.full((1,), float(number))})
    assert [read_source(f"{address}/{number}/model.safetensors")["w"].item() for number in (1, 2)] == [1, 2]


def test_the_hash_in_a_name_is_checked(server, cache):
    address, folder, _ = server
    write(folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    (folder / f"w-{digest[:8]}.pth").write_bytes((folder / "w.pth").read_bytes())
    (folder / "w-deadbeef.pth").write_bytes((folder / "w.pth").read_bytes())
    read_source(f"{address}/w-{digest[:8]}.pth")
    fails(f"{address}/w-deadbeef.pth", ValueError, "the hash differs")
    assert [file.name for file in cache.iterdir()] == [f"w-{digest[:8]}.pth"]


def test_a_date_in_a_name_is_no_hash(server, cache):
    address, folder, _ = server
    write(folder / "model-20221031.pth")
    assert read_source(f"{address}/model-20221031.pth")["w"].tolist() == [0, 1, 2, 3]
    assert re.fullmatch(r"model-20221031-[0-9a-f]{12}\.pth", next(cache.iterdir()).name)


def test_the_case_of_a_scheme_does_not_matter(server, cache):
    address, folder, _ = server
    write(folder / "w.pth")
    assert read_source(f"{address}/w.pth".replace("http", "HTTP"))["w"].tolist() == [0, 1, 2, 3]


def test_a_download_that_was_cut_off_says_what_to_do(server, cache):
    address, folder, _ = server
    write(folder / "w.pth", {"w": torch.ones(9999)})
    (folder / "w.pth").write_bytes((folder / "w.pth").read_bytes()[:999])
    fails(
        f"{address}/w.pth", ValueError, rf"{cache}.* is truncated.*; it came from .*/w\.pth, delete it to download it"
    )


def test_a_hostile_download_runs_nothing(server, cache, tmp_path):
    address, folder, _ = server
    torch.save({"model": Payload(tmp_path / "harmed")}, folder / "w.pth")
    fails(f"{address}/w.pth", ValueError, "would run code")
    assert not (tmp_path / "harmed").exists()


def test_urls_that_fail(server, cache):
    address, _, _ = server
    fails(f"{address}/nothing.pth", FileNotFoundError, r"could not download http.*nothing\.pth \(HTTP Error 404.*path$")
    fails("http://127.0.0.1:1/w.pth", FileNotFoundError, "Connection refused")
    fails(f"{address}/a name.pth", FileNotFoundError, "control characters")


def test_torchvision_names_and_versions(monkeypatch):
    monkeypatch.setattr(sources, "fetch_url", lambda url: url)
    base = "https://download.pytorch.org/models/"
    for name, file in [
        ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth"),
        ("resnext50_32x4d.IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth"),
        ("resnext50_32x4d.IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth"),
        ("resnet50.IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
    ]:
        assert fetch_torchvision(f"torchvision://{name}", name) == base + file
    with pytest.raises(ValueError, match="of resnet50 there is IMAGENET1K_V1, IMAGENET1K_V2$"):
        fetch_torchvision("torchvision://…", "resnet50.IMAGENET1K_V3")


@pytest.mark.parametrize("name", ["resnet101", "resnet152.IMAGENET1K_V2", "resnext101_32x8d", "resnext101_64x4d", "x"])
def test_what_fits_no_variant_is_not_downloaded(monkeypatch, name):
    monkeypatch.setattr(sources, "fetch_url", lambda url: pytest.fail(f"asked for {url}"))
    mend = r"of torchvision resnet50 and resnext50_32x4d fit a variant, .* timm://resnext101_32x4d\.gluon_in1k$"
    fails(f"torchvision://{name}", ValueError, mend)


def test_every_name_of_torchvision_fits_a_variant():
    for name in TORCHVISION_FILES:
        depth, groups, width = re.fullmatch(r"resne(?:x)?t(\d+)(?:_(\d+)x(\d+)d)?", name).groups()
        blocks = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}[depth]
        sizes = dict(groups=int(groups), group_width=int(width)) if groups else {}
        assert CNNArch(blocks, **sizes) in CNN_ARCHS.values()


def test_torchvision_table_is_torchvisions():
    found = importlib.util.find_spec("torchvision")
    if found is None:
        pytest.skip("torchvision is not installed")
    with open(os.path.join(os.path.dirname(found.origin), "models", "resnet.py")) as file:
        text = file.read()
    assert all(f"models/{file}" in text for files in TORCHVISION_FILES.values() for file in files)


def test_hub_sources(hub):
    folder, asked = hub
    write(folder / "pytorch_model.bin")
    read_source("hf://facebook/dinov2-small")
    assert asked == ["facebook/dinov2-small/model.safetensors", "facebook/dinov2-small/pytorch_model.bin"]
    write(folder / "model.safetensors")
    read_source("timm://vit_small_patch16_224.augreg_in21k")
    assert asked[2:] == ["timm/vit_small_patch16_224.augreg_in21k/model.safetensors"]
    write(folder / "backbone.pth")
    read_source("hf://org/name/backbone.pth")
    assert asked[3:] == ["org/name/backbone.pth"]


def test_an_unreachable_hub_is_one_line(hub):
    fails(
        "hf://facebook/dinov2-small",
        FileNotFoundError,
        r"could not download hf://facebook/dinov2-small \(model\.safetensors: LocalEntryNotFoundError, .*"
        r"check the name and the connection, or download the file elsewhere and give its path$",
    )


def test_the_real_hub_library_offline_is_one_line(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fails("timm://vit_small_patch16_224.augreg_in21k", FileNotFoundError, "could not download timm://vit_small.*path$")


def test_a_missing_hub_library_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails("timm://resnet50", ValueError, "pip install huggingface_hub$")


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_one_process_of_a_machine_downloads_first(monkeypatch, local_rank):
    events = []
    monkeypatch.setattr(download.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(download.distributed, "get_rank", lambda: 5)
    monkeypatch.setattr(download.distributed, "barrier", lambda: events.append("barrier"))
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert leader_first(lambda: events.append("fetch") or "path") == "path"
    assert events == (["fetch", "barrier"] if local_rank == "0" else ["barrier", "fetch"])


def test_a_failed_download_does_not_leave_the_others_waiting(monkeypatch):
    events = []
    monkeypatch.setattr(download.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(download.distributed, "barrier", lambda: events.append("barrier"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(FileNotFoundError):
        leader_first(lambda: safe_load("/nowhere/w.pth"))
    assert events == ["barrier"]
