"""Nothing that a checkpoint holds is run, wherever it is loaded; each payload is shown to work where it is let."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hostile import Payload
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from hybrid_dense.cli import main
from hybrid_dense.engine import checkpoint as ours
from hybrid_dense.engine.safe_loading import disarm
from hybrid_dense.inference import Predictor
from hybrid_dense.weights import load_pretrained


@pytest.fixture(autouse=True)
def errors_in_full(monkeypatch):
    """Commands raise what they would print."""
    monkeypatch.setenv("HYBRID_DENSE_TRACEBACK", "1")


class Line(BaseModel):
    """The smallest model that a runner trains."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode="loss"):
        return {"loss": self.line(torch.stack(inputs)).square().mean()}


class Numbers(BaseDataset):
    def load_data_list(self):
        return [{}] * 4

    def prepare_data(self, index):
        return {"inputs": torch.ones(2)}


def run_mmengine(runner, path, **options) -> None:
    """mmengine's own runner, with nothing of ours but the loaders."""
    with DefaultScope.overwrite_default_scope("mmengine"):
        runner(
            model=Line(),
            work_dir="run",
            train_dataloader=dict(dataset=Numbers(), batch_size=2, sampler=dict(type="DefaultSampler", shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
            # mmengine's FlexibleRunner loads before its EMAHook is ready to.
            custom_hooks=[dict(type="EMAHook")] if runner is Runner else None,
            load_from=str(path),
            log_level="ERROR",
            experiment_name=f"{runner.__name__}-{id(path)}",
            **options,
        ).train()


def backbone(**options) -> nn.Module:
    return MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", **options))


def command(*arguments) -> None:
    assert main(list(map(str, arguments))) == 0


def train_resume_auto(kit, path):
    Path("run").mkdir(exist_ok=True)
    shutil.copy(path, "run/epoch_1.pth")
    Path("run/last_checkpoint").write_text("epoch_1.pth")
    command("train", kit.config, "--work-dir", "run", "--resume", "auto")


def init(module: nn.Module) -> None:
    module.init_weights()


def host_function(kit, path):
    from mmseg.apis import init_model

    init_model(Predictor(kit.config, device="cpu").config, str(path), device="cpu")


# Every way in. The commands first, then Python's, then what is mmengine's and the hosts' own.
RESUMING = {
    "train --resume": lambda kit, path: command("train", kit.config, "--work-dir", "run", "--resume", path),
    "train --resume auto": train_resume_auto,
    "Runner.resume": lambda kit, path: run_mmengine(Runner, path, resume=True),
    "FlexibleRunner.resume": lambda kit, path: run_mmengine(FlexibleRunner, path, resume=True),
}
USING = {
    "test": lambda kit, path: command("test", kit.config, path, "--work-dir", "run"),
    "predict": lambda kit, path: command("predict", kit.config, path, kit.image, "--out", "found", "--device", "cpu"),
    "weights export": lambda kit, path: command(
        "weights", "export", path, "--config", kit.config, "-o", "a.safetensors"
    ),
    "weights show": lambda kit, path: command("weights", "show", path),
    "Predictor": lambda kit, path: Predictor(kit.config, path, device="cpu")(kit.image),
    "init_model of mmseg": host_function,
}
LOADING = {
    "train load_from": lambda kit, path: command(
        "train", kit.config, "--work-dir", "run", "--cfg-options", f"load_from={path}"
    ),
    "load_pretrained": lambda kit, path: load_pretrained(backbone(), cnn=path),
    "TrunkPretrained": lambda kit, path: init(backbone(init_cfg=dict(type="TrunkPretrained", cnn=str(path)))),
    "Pretrained": lambda kit, path: init(BaseModule(dict(type="Pretrained", checkpoint=str(path)))),
    "Pretrained, prefix": lambda kit, path: init(BaseModule(dict(type="Pretrained", checkpoint=str(path), prefix="a"))),
    "load_checkpoint": lambda kit, path: load_checkpoint(nn.Linear(1, 1), str(path)),
    "Runner.load_from": lambda kit, path: run_mmengine(Runner, path),
    "FlexibleRunner.load_from": lambda kit, path: run_mmengine(FlexibleRunner, path),
}
EVERYWHERE = RESUMING | USING | LOADING


@pytest.mark.parametrize("way", EVERYWHERE)
def test_a_payload_is_refused_by_name_and_not_run(kit, way):
    checkpoint = kit.training_checkpoint(extra=Payload(kit.harmed))
    torch.save(checkpoint, "hostile.pth")
    with pytest.raises(ValueError, match=r"would run code \(posix\.mkdir\); refused, nothing was run"):
        EVERYWHERE[way](kit, Path("hostile.pth").absolute())
    assert not kit.harmed.exists()
    torch.load("hostile.pth", weights_only=False)
    assert kit.harmed.exists()


@pytest.mark.parametrize(
    "place", ["meta", "message_hub", "optimizer", "param_schedulers", "hybrid_dense", "state_dict"]
)
def test_a_payload_is_found_wherever_it_is(kit, place):
    checkpoint = kit.training_checkpoint()
    checkpoint.setdefault(place, {})["x"] = Payload(kit.harmed)
    torch.save(checkpoint, "hostile.pth")
    with pytest.raises(ValueError, match="would run code"):
        CheckpointLoader.load_checkpoint("hostile.pth", "cpu")
    assert not kit.harmed.exists()


@pytest.mark.parametrize("way", RESUMING | USING)
def test_python_in_a_checkpoint_stays_text(kit, way):
    checkpoint = kit.training_checkpoint()
    if way.endswith("Runner.resume"):
        checkpoint["state_dict"] = Line().state_dict()
        checkpoint["param_schedulers"] = []
        checkpoint["optimizer"] = torch.optim.SGD(Line().parameters(), lr=0.1).state_dict()
    checkpoint["meta"] |= dict(config=kit.python, cfg=kit.python)
    checkpoint["message_hub"]["runtime_info"] |= dict(cfg=kit.python, config=kit.python)
    checkpoint["message_hub"]["log_scalars"]["lr"] = log = HistoryBuffer()
    log._statistics_methods = dict(mean=kit.python)
    torch.save(checkpoint, "texts.pth")
    (RESUMING | USING)[way](kit, Path("texts.pth").absolute())
    assert not kit.harmed.exists()
    Config.fromstring(kit.python, ".py")  # as Runner.resume does with meta["config"]
    assert kit.harmed.exists()


def test_plain_values_in_a_schedulers_state_cannot_become_methods(kit):
    """`load_state_dict` of schedulers is `__dict__.update`; nothing that the file can hold is of use there."""
    checkpoint = kit.training_checkpoint(state_dict=Line().state_dict())
    checkpoint["optimizer"] = torch.optim.SGD(Line().parameters(), lr=0.1).state_dict()
    checkpoint["param_schedulers"] = [dict(step=kit.python, _get_value=kit.python, optimizer=kit.python)]
    torch.save(checkpoint, "hostile.pth")
    with pytest.raises((TypeError, AttributeError)):
        run_mmengine(Runner, "hostile.pth", resume=True, param_scheduler=[dict(type="ConstantLR", factor=1.0)])
    assert not kit.harmed.exists()


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Where the files of the test's folder are served."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_downloads_are_opened_as_files_are(kit, address, monkeypatch):
    torch.save(dict(weight=torch.ones(1, 1), bias=torch.ones(1)), "good.pth")
    torch.save(dict(weight=Payload(kit.harmed)), "hostile.pth")
    model = nn.Linear(1, 1)
    load_checkpoint(model, f"{address}/good.pth")
    assert model.weight.item() == 1
    table = dict(good=f"{address}/good.pth", hostile=f"{address}/hostile.pth")
    for name in ("torchvision_models", "external_models", "mmcls_models"):
        monkeypatch.setattr(f"mmengine.runner.checkpoint.get_{name}", lambda: table)
    schemes = ("torchvision://", "modelzoo://", "open-mmlab://", "openmmlab://", "mmcls://", f"{address}/")
    for scheme in schemes:
        suffix = ".pth" if scheme.startswith("http") else ""
        with pytest.raises(ValueError, match="would run code"):
            CheckpointLoader.load_checkpoint(f"{scheme}hostile{suffix}", "cpu")
        CheckpointLoader.load_checkpoint(f"{scheme}good{suffix}", "cpu")
    with pytest.raises(ValueError, match="torchvision knows no model 'goood', did you mean good"):
        CheckpointLoader.load_checkpoint("torchvision://goood", "cpu")
    assert not kit.harmed.exists()


def test_no_loader_of_mmengine_is_left():
    left = {prefix: loader for prefix, loader in CheckpointLoader._schemes.items() if "mmengine" in loader.__module__}
    assert len(CheckpointLoader._schemes) >= 10 and not left


# --- what the loaders still do ----------------------------------------------------------------------------------------


def test_tensors_go_where_they_are_told_and_outlive_the_file(kit):
    torch.save(dict(w=torch.ones(100_000)), "w.pth")
    assert CheckpointLoader.load_checkpoint("w.pth", "meta")["w"].is_meta
    assert CheckpointLoader.load_checkpoint("w.pth", lambda storage, place: storage)["w"].sum() == 100_000
    weights = CheckpointLoader.load_checkpoint("w.pth", "cpu")
    Path("w.pth").write_bytes(bytes(10))  # as a run does that saves in place
    assert weights["w"].sum() == 100_000


def test_what_is_no_dict_is_handed_on(kit):
    torch.save(torch.ones(3), "embedding.pth")
    assert CheckpointLoader.load_checkpoint("embedding.pth", "cpu").sum() == 3


def test_a_checkpoint_deletes_nothing_outside_its_folder(tmp_path):
    mine, other = tmp_path / "run", tmp_path / "thesis"
    info = dict(
        best_ckpt=str(mine / "best_mIoU.pth"),
        best_ckpt_a=str(other / "best_a.pth"),
        best_ckpt_b=str(other),
        best_ckpt_c=["x.pth"],
        last_ckpt="../thesis/epoch_3.pth",
        keep_ckpt_ids=["/../../thesis/x"],
        mid_epoch_ckpts=["../thesis/iter_3.pth", "", ".", "/", "..", "config.py"],
        iter=7,
    )
    disarm(dict(message_hub=dict(runtime_info=info)), mine)
    assert info == dict(
        best_ckpt=str(mine / "best_mIoU.pth"),
        best_ckpt_a=str(mine / "best_a.pth"),
        best_ckpt_b=None,
        best_ckpt_c=None,
        last_ckpt=str(mine / "epoch_3.pth"),
        keep_ckpt_ids=[],
        mid_epoch_ckpts=["iter_3.pth"],
        iter=7,
    )


# --- trust ------------------------------------------------------------------------------------------------------------

TRUSTED = {
    "train --resume": lambda kit, path: command(
        "train", kit.config, "--work-dir", "run", "--resume", path, "--trust-checkpoint"
    ),
    "train load_from": lambda kit, path: command(
        "train", kit.config, "--work-dir", "run", "--trust-checkpoint", "--cfg-options", f"load_from={path}"
    ),
    "test": lambda kit, path: command("test", kit.config, path, "--work-dir", "run", "--trust-checkpoint"),
    "predict": lambda kit, path: command(
        "predict", kit.config, path, kit.image, "--out", "found", "--device", "cpu", "--trust-checkpoint"
    ),
    "weights export": lambda kit, path: command(
        "weights", "export", path, "--config", kit.config, "-o", "a.safetensors", "--trust-checkpoint"
    ),
    "weights show": lambda kit, path: command("weights", "show", path, "--trust-checkpoint"),
    "Predictor": lambda kit, path: Predictor(kit.config, path, device="cpu", trust=True)(kit.image),
}


class Harmless:
    """Pickles to a call that the restricted reader refuses, and that may be made twice."""

    def __reduce__(self):
        return Path, (".",)


@pytest.mark.parametrize("way", TRUSTED)
def test_a_trusted_file_is_opened_with_a_warning(kit, way, monkeypatch, caplog):
    monkeypatch.setattr(ours, "_trusted", set())
    said = []
    monkeypatch.setattr(ours, "print_log", lambda message, *_: said.append(message))
    torch.save(kit.training_checkpoint(extra=Harmless()), "odd.pth")
    path = Path("odd.pth").absolute()
    TRUSTED[way](kit, path)
    assert said and set(said) == {f"{path} is trusted: opened without restriction, it can run any code"}


def test_trust_is_for_a_file_a_folder_or_an_address(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "_trusted", set())
    monkeypatch.chdir(tmp_path)
    ours.trust("run")
    ours.trust("one.pth")
    ours.trust("https://host/a.pth")
    assert ours.is_trusted("run/epoch_1.pth") and ours.is_trusted(tmp_path / "one.pth")
    assert ours.is_trusted("https://host/a.pth") and not ours.is_trusted("https://host/b.pth")
    assert not ours.is_trusted("two.pth") and not ours.is_trusted("running/x.pth")
