"""What the commands make of a config before anything runs."""

import os

import pytest
from mmengine.config import Config

from hybrid_dense.cli import CommandError
from hybrid_dense.cli.session import parse_options, read_slurm_environment, register_host, stretch_schedule


def test_epochs_stretch_the_whole_schedule_but_its_warm_up():
    schedule = [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11]),
        dict(type="CosineAnnealingLR", begin=6, end=12, T_max=6),
    ]
    cfg = Config(dict(train_cfg=dict(max_epochs=12), param_scheduler=schedule))
    stretch_schedule(cfg, 36)
    warm_up, steps, cosine = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 36
    assert warm_up.end == 500
    assert (steps.end, steps.milestones) == (36, [24, 33])
    assert (cosine.begin, cosine.end, cosine.T_max) == (18, 36, 18)


def test_epochs_of_a_training_by_iterations_are_refused():
    with pytest.raises(CommandError, match="trains by iterations"):
        stretch_schedule(Config(dict(train_cfg=dict(max_iters=100))), 3)


def test_options_are_read_as_mmengine_reads_them():
    options = parse_options(["a.b=1", "c=[x,y]", "d=True", "e=1e-3", "f=a=b"])
    assert options == {"a.b": 1, "c": ["x", "y"], "d": True, "e": 1e-3, "f": "a=b"}


def test_an_option_without_a_value_is_named():
    with pytest.raises(CommandError, match="model.backbone: expected KEY=VALUE"):
        parse_options(["a=1", "model.backbone"])


@pytest.mark.parametrize("scope", [None, "mmpretrain"])
def test_a_config_of_no_known_host_says_what_to_set(scope):
    with pytest.raises(CommandError, match="set it to 'mmdet' or 'mmseg'"):
        register_host(Config(dict(default_scope=scope)))


def test_slurm_tells_torch_who_is_who(monkeypatch):
    for name, value in dict(PROCID=5, NTASKS=16, LOCALID=1).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "unset")  # restored afterwards
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(CommandError, match="needs MASTER_PORT; start it through tools/slurm_train.sh"):
        read_slurm_environment()
    monkeypatch.setenv("MASTER_PORT", "29500")
    read_slurm_environment()
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["5", "16", "1"]
