"""Checkpoints are read without running code, and loaded into a model without silent gaps."""

import argparse
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from hybrid_dense.engine.checkpoint import load_state_dict, read_checkpoint, safe_load
from hybrid_dense.engine.model_weights import count_classes, load_weights


class Payload:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TinyHead(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.cls = nn.Linear(4, num_classes)


class TinyModel(nn.Module):
    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = TinyHead(num_classes)


def training_checkpoint(model: nn.Module, **extra) -> dict:
    """What mmengine's Runner saves, in small: log buffers, numpy numbers, config dicts, an optimizer's state."""
    log = HistoryBuffer()
    log.update(0.5)
    log.update(0.25)
    return {
        "meta": {"epoch": 2, "dataset_meta": {"classes": ("a", "b", "c"), "info": ConfigDict(year=2017)}},
        "state_dict": model.state_dict(),
        "message_hub": {
            "log_scalars": {"train/loss": log},
            "runtime_info": {"eta": np.float64(1.5), "ids": np.arange(3), "flags": np.array([True]), "n": np.int64(3)},
            "nothing": np.array([]),
        },
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        **extra,
    }


def test_training_checkpoint_is_read_whole(tmp_path):
    model, path = TinyModel(), tmp_path / "epoch_2.pth"
    torch.save(training_checkpoint(model), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.meta["epoch"] == 2 and checkpoint.class_names == ("a", "b", "c")
    assert list(checkpoint.weights) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in checkpoint.weights.items())

    hub = safe_load(path)["message_hub"]
    assert type(hub["log_scalars"]["train/loss"]) is HistoryBuffer
    assert hub["log_scalars"]["train/loss"].mean() == 0.375
    assert hub["nothing"].shape == (0,)
    assert hub["runtime_info"]["eta"] == 1.5 and hub["runtime_info"]["ids"].tolist() == [0, 1, 2]


def test_a_checkpoint_of_the_real_runner_is_read(tmp_path):
    from mmengine.dataset import BaseDataset
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Numbers(BaseDataset):
        METAINFO = {"classes": ("a", "b")}

        def load_data_list(self):
            return [{}] * 4

        def prepare_data(self, index):
            return {"inputs": torch.ones(2)}

    class Line(BaseModel):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(2, 1)

        def forward(self, inputs, data_samples=None, mode="loss"):
            return {"loss": self.line(torch.stack(inputs)).square().mean()}

    runner = Runner(
        Line(),
        str(tmp_path),
        train_dataloader=dict(dataset=Numbers(), batch_size=2, sampler=dict(type="DefaultSampler", shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=[dict(type="LinearLR", start_factor=0.1), dict(type="CosineAnnealingLR", T_max=2)],
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=[dict(type="EMAHook")],
        experiment_name="test_a_checkpoint_of_the_real_runner_is_read",
        log_level="ERROR",
    )
    runner.train()
    checkpoint = read_checkpoint(tmp_path / "epoch_1.pth")
    assert set(checkpoint.weights) == {"line.weight", "line.bias"} and checkpoint.class_names == ("a", "b")
    assert "train/loss" in safe_load(tmp_path / "epoch_1.pth")["message_hub"]["log_scalars"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_hostile_checkpoint_runs_nothing(tmp_path, zipped):
    harmed, path = tmp_path / "harmed", tmp_path / "hostile.pth"
    content = training_checkpoint(TinyModel(), extra=Payload(harmed))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for read in (load_state_dict, safe_load, lambda path: load_weights(TinyModel(), path)):
        with pytest.raises(ValueError, match=r"hostile\.pth would run code \(posix\.mkdir\); refused") as error:
            read(path)
        assert "\n" not in str(error.value)
    assert not harmed.exists()
    torch.load(path, weights_only=False)  # the payload is live: it does harm where pickle is let loose
    assert harmed.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_runs_nothing(tmp_path, protocol):
    harmed, path = tmp_path / "harmed", tmp_path / "hostile.pth"
    path.write_bytes(pickle.dumps({"state_dict": Payload(harmed)}, protocol))
    with pytest.raises(ValueError, match=r"hostile\.pth"):
        load_state_dict(path)
    assert not harmed.exists()


def test_a_file_cannot_exchange_the_methods_of_log_buffers(tmp_path):
    log = HistoryBuffer()
    log.update(1.0)
    log._statistics_methods = {"mean": torch.Size}  # an instance's own, pickled as every buffer's
    torch.save({"state_dict": TinyModel().state_dict(), "log": log}, tmp_path / "log.pth")
    safe_load(tmp_path / "log.pth")
    assert HistoryBuffer._statistics_methods["mean"] is HistoryBuffer.mean


def test_whole_modules_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="torch.nn.modules.linear.Linear"):
        load_state_dict(tmp_path / "module.pth")


@pytest.mark.parametrize("content", [b"", b"PK", b"<!DOCTYPE html>", b"version https://git-lfs", bytes(600)])
def test_files_that_are_no_checkpoints(tmp_path, content):
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.pth is (empty|truncated|damaged)") as error:
        load_state_dict(tmp_path / "odd.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, kept):
    path = tmp_path / "cut.pth"
    torch.save(training_checkpoint(TinyModel()), path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(ValueError, match=r"cut\.pth is truncated"):
        load_state_dict(path)


def test_missing_files_name_their_neighbours(tmp_path):
    for name in ("epoch_1.pth", "epoch_12.pth", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"epoch_13\.pth; in that folder: epoch_1\.pth, epoch_12\.pth$"):
        load_state_dict(tmp_path / "epoch_13.pth")
    with pytest.raises(FileNotFoundError, match="is a folder; name a checkpoint file; in it: epoch_1.pth"):
        load_state_dict(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_state_dict(tmp_path / "nowhere" / "x.pth")


def test_where_the_weights_lie_and_what_they_are_called(tmp_path):
    path, one, two = tmp_path / "w.pth", torch.ones(2), torch.full((2,), 2.0)
    for content in ({"state_dict": {"w": one}}, {"model": {"w": one}}, {"w": one}, {"model": {"module.module.w": one}}):
        torch.save(content, path)
        assert load_state_dict(path)["w"].tolist() == [1, 1] and list(load_state_dict(path)) == ["w"]
    with pytest.raises(ValueError, match="no averaged"):
        load_state_dict(path, ema=True)
    torch.save({"model": {"w": one}, "model_ema": {"module.w": two}}, path)
    assert load_state_dict(path)["w"].tolist() == [1, 1]
    assert load_state_dict(path, ema=True)["w"].tolist() == [2, 2]
    torch.save({"epoch": 1, "args": "none"}, path)
    with pytest.raises(ValueError, match=r"no weights in it, only: 2 \(epoch, args\)"):
        load_state_dict(path)


def test_weights_outlive_their_file(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(100_000)}, path)
    weights = load_state_dict(path)
    path.write_bytes(bytes(path.stat().st_size))  # as a training run does that saves over its last checkpoint
    assert weights["w"].sum() == 100_000


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "w.safetensors"
    safetensors.save_file({"module.w": torch.ones(2)}, path)
    assert load_state_dict(path)["w"].tolist() == [1, 1]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_state_dict(path)


def test_safetensors_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(ValueError, match="pip install safetensors"):
        load_state_dict(tmp_path / "w.safetensors")


def test_load_weights_fills_the_model(tmp_path):
    source, target = TinyModel(), TinyModel()
    torch.save(training_checkpoint(source), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_missing_weights_are_an_error_and_surplus_ones_a_warning(tmp_path):
    path, state = tmp_path / "w.pth", TinyModel().state_dict()
    torch.save({**state, "neck.weight": torch.ones(1)}, path)
    with pytest.warns(UserWarning, match=r"1 \(neck.weight\) not in the model, left out"):
        load_weights(TinyModel(), path)
    torch.save({name: value for name, value in state.items() if "num_batches_tracked" not in name}, path)
    load_weights(TinyModel(), path)
    torch.save({name: value for name, value in state.items() if not name.startswith("head")}, path)
    with pytest.raises(ValueError, match=r"does not fit the model: 2 \(head.cls.weight, head.cls.bias\) missing$"):
        load_weights(TinyModel(), path)


def test_another_number_of_classes_names_both(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(training_checkpoint(TinyModel(3)), path)
    with pytest.raises(ValueError, match="trained on 3 classes and the model has 8") as error:
        load_weights(TinyModel(8), path)
    assert "head.cls.weight 3×4 in the file, 8×4 in the model" in str(error.value)
    assert "\n" not in str(error.value)


def test_count_classes_looks_at_heads_alone():
    model = TinyModel(3)
    model.backbone.num_classes = 1000
    model.rpn_head = TinyHead(1)
    assert count_classes(model) == 3
    assert count_classes(nn.Linear(1, 1)) is None


def test_importing_loads_neither_host():
    code = "import sys, hybrid_dense.engine.checkpoint; sys.exit(bool({'mmdet', 'mmseg'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_array_of_numbers_that_pass_for_addresses_of_objects_is_refused(tmp_path):
    """numpy takes a pickle's word for what a number type is made of; reading the field would follow the address."""

    class Forged:
        def __init__(self, inside):
            self.inside = inside

        def __reduce__(self):
            return self.inside

    class Type(Forged):
        pass

    fields = (3, "<", None, ("a",), {"a": (np.dtype("f4"), 0)}, 8, 8, 0)
    kind = Type((np.dtype, ("f8", False, True), fields))
    reconstruct = np.empty(0).__reduce__()[0]
    array = Forged((reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), kind, False, bytes(range(16)))))
    for place in ({"x": array}, {"meta": {"x": [(array,)]}}, {"args": argparse.Namespace(x=array)}):
        torch.save({"state_dict": TinyModel().state_dict(), **place}, tmp_path / "forged.pth")
        with pytest.raises(ValueError, match=r"forged\.pth is damaged or not a checkpoint"):
            read_checkpoint(tmp_path / "forged.pth")


@pytest.mark.parametrize(
    "weight",
    [torch.eye(2).to_sparse(), torch.eye(2).to_sparse_csr(), torch.eye(2, device="meta"), torch.eye(2) * 1j],
    ids=["sparse", "csr", "meta", "complex"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_that_no_model_holds_are_refused(tmp_path, weight):
    torch.save({"fine": torch.ones(1), "odd": weight}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd is not a dense tensor of real numbers") as error:
        read_checkpoint(tmp_path / "odd.pth")
    assert "\n" not in str(error.value)


def test_a_small_file_that_claims_huge_weights_is_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(10**12)}, tmp_path / "huge.pth")
    with pytest.raises(ValueError, match="w claims more values than the file holds"):
        read_checkpoint(tmp_path / "huge.pth")
