"""FSDP trains what DDP trains, and each goes on from the other's checkpoint."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_demo import DEMO, SMALL
from torch import nn

from hybrid_dense.cli import main
from hybrid_dense.engine.sharding import model_parts
from hybrid_dense.engine.strategies import set_strategy

PROJECT = Path(__file__).parents[2]
TOLERANCE = dict(rtol=1e-5, atol=1e-6)
SHORT = ("train_cfg.max_epochs=2", "default_hooks.logger.interval=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Losses and gradient norms of the first of two processes, by strategy, and the folder with the checkpoints."""
    folder = tmp_path_factory.mktemp("sharding")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = PROJECT / "tests/distributed/sharding_program.py"
    done = subprocess.run([*launcher, program, folder], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text()), folder


def test_fsdp_trains_to_the_losses_of_ddp(trained):
    results, _ = trained
    ddp, fsdp = results["ddp"], results["fsdp"]
    assert len(ddp["losses"]) == 8
    assert fsdp["losses"] == pytest.approx(ddp["losses"], rel=1e-5)
    # The norm of all gradients, not of one process's share, is what clipping needs.
    assert fsdp["norms"] == pytest.approx(ddp["norms"], rel=1e-5)


def test_a_process_holds_its_share_of_every_weight(trained):
    results, _ = trained
    whole, share = results["fsdp"]["sharded"]
    assert results["ddp"]["sharded"] == [0, 0] and whole == 3 * 8 * 9 + 2 * 8 + 8 * 7 * 9 + 2 * 7 + 7 + 1
    assert share < 0.6 * whole


def test_each_goes_on_from_the_others_checkpoint(trained):
    results, _ = trained
    for name in ("ddp, then fsdp", "fsdp, then ddp"):
        assert results[name]["losses"] == pytest.approx(results["ddp"]["losses"][4:], rel=1e-5)


def test_hooks_are_ready_when_a_checkpoint_is_loaded(trained):
    results, _ = trained
    assert results["averaged"]["losses"] == pytest.approx(results["ddp"]["losses"][4:], rel=1e-5)


def test_checkpoints_are_those_of_ddp(trained):
    _, folder = trained
    ddp, fsdp = (torch.load(folder / name / "epoch_2.pth", weights_only=False) for name in ("ddp", "fsdp"))
    assert list(ddp["state_dict"]) == list(fsdp["state_dict"])
    assert "backbone.stem.0.weight" in ddp["state_dict"]
    for name, value in ddp["state_dict"].items():
        other = fsdp["state_dict"][name]
        assert type(other) is torch.Tensor and other.stride() == value.stride()
        torch.testing.assert_close(other, value, **TOLERANCE)
    assert ddp["optimizer"]["param_groups"] == fsdp["optimizer"]["param_groups"]
    for index, state in ddp["optimizer"]["state"].items():
        for key, value in state.items():
            other = fsdp["optimizer"]["state"][index][key]
            assert type(other) is torch.Tensor and other.stride() == value.stride()
            torch.testing.assert_close(other, value, **TOLERANCE)


def test_the_policy_takes_the_parts_of_both_trunks_and_the_fusions():
    from mmengine.registry import MODELS

    backbone = MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico"))
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(8, 8)})
    units = model_parts(model, smallest=1)
    names = {module: name for name, module in model.named_modules()}
    found = {names[unit] for unit in units}
    assert {"backbone.cnn.conv1", "backbone.vit.patch_embed", "backbone.vit.blocks.0", "backbone.fusions.0"} <= found
    assert "head" not in found and "backbone.cnn.maxpool" not in found and len(units) == len(found)
    largest = max(sum(p.numel() for p in unit.parameters()) for unit in units)
    assert len(model_parts(model, smallest=largest)) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fsdp", dict(custom_hooks=[dict(type="EMAHook")]), "fsdp does not go with EMAHook.*use --strategy ddp"),
        ("deepspeed", {}, "pip install deepspeed=="),
    ],
)
def test_what_a_strategy_cannot_do_is_one_line(name, options, message):
    if name == "deepspeed":
        try:
            import deepspeed  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("deepspeed is installed")
    with pytest.raises(ValueError, match=message):
        set_strategy(Config(options), name, on_gpu=True)


@pytest.mark.parametrize("unused", [False, True])
def test_ddp_by_name_waits_for_unused_parameters_as_the_config_says(unused):
    cfg = Config(dict(find_unused_parameters=True) if unused else {})
    set_strategy(cfg, "ddp", on_gpu=True)
    assert cfg.strategy.model_wrapper.find_unused_parameters is unused
    cfg = Config(dict(find_unused_parameters=True, model_wrapper_cfg=dict(find_unused_parameters=False)))
    set_strategy(cfg, "ddp", on_gpu=True)
    assert cfg.strategy.model_wrapper.find_unused_parameters is False


def test_a_strategy_without_a_launcher_names_the_launcher(capsys):
    assert main(["train", "my.py", "--strategy", "fsdp"]) == 2
    error = capsys.readouterr().err
    assert "--strategy fsdp is for several processes: tools/dist_train.sh my.py N --strategy fsdp" in error


@pytest.mark.slow
def test_every_topology_and_fusion_has_its_gradients(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = PROJECT / "tests/distributed/gradients_program.py"
    done = subprocess.run([*launcher, program, tmp_path / "found.json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    differences = json.loads((tmp_path / "found.json").read_text())
    assert len(differences) > 20
    assert not {name: value for name, value in differences.items() if value > 1e-4}


@pytest.mark.slow
def test_mask_rcnn_trains_under_fsdp_as_under_ddp(command, tmp_path):
    losses = {}
    for strategy in ("ddp", "fsdp"):
        chosen = ["--no-amp", "--strategy", strategy, "--work-dir", tmp_path / strategy]
        options = [*chosen, "--cfg-options", *SMALL, *SHORT]
        done = command("tools/dist_train.sh", DEMO, 2, *options, CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 0, done.stderr[-3000:]
        text = done.stdout + done.stderr
        losses[strategy] = [float(loss) for loss in re.findall(r"Epoch\(train\).* loss: ([\d.]+)", text)]
        assert re.search(r"2 processes × 2 images = 4 images a step; learning rate 0\.0015", text)
    assert len(losses["ddp"]) == 4
    assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=1e-3)
    assert torch.load(tmp_path / "fsdp/epoch_2.pth", weights_only=False)["meta"]["iter"] == 4
