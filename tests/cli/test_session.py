"""What the commands make of a config before anything runs."""

import os

import pytest
from mmengine.config import Config

from hybrid_dense.cli import CommandError, session
from hybrid_dense.cli.session import (
    batch_windows,
    join_processes,
    parse_options,
    read_slurm_environment,
    register_host,
    stretch_schedule,
)


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


def rtmdet() -> Config:
    return Config(
        dict(
            train_cfg=dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)]),
            param_scheduler=[
                dict(type="CosineAnnealingLR", begin=150, end=300, T_max=150),
                dict(type="MultiStepLR", begin=290, end=300, milestones=[1, 299]),
            ],
            custom_hooks=[dict(type="EMAHook"), dict(type="PipelineSwitchHook", switch_epoch=280)],
        )
    )


def test_epochs_stretch_the_switch_of_the_pipeline_and_the_validations():
    cfg = rtmdet()
    stretch_schedule(cfg, 30)
    assert cfg.custom_hooks[1].switch_epoch == 28
    assert cfg.train_cfg == dict(max_epochs=30, val_interval=1, dynamic_intervals=[(28, 1)])
    cfg = rtmdet()
    stretch_schedule(cfg, 600)
    assert cfg.custom_hooks[1].switch_epoch == 560
    assert cfg.train_cfg == dict(max_epochs=600, val_interval=10, dynamic_intervals=[(560, 1)])


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 7])
def test_a_few_epochs_leave_a_schedule_that_runs_and_ends(epochs):
    cfg = rtmdet()
    stretch_schedule(cfg, epochs)
    cosine, steps = cfg.param_scheduler
    assert cosine.T_max == cosine.end - cosine.begin >= 1 and cosine.end == epochs
    assert steps.begin < steps.end == epochs and min(steps.milestones) >= 1  # at 0 it would begin with the lower rate
    assert 1 <= cfg.custom_hooks[1].switch_epoch <= epochs
    intervals = cfg.train_cfg
    assert intervals.val_interval == 1 and intervals.dynamic_intervals == [(cfg.custom_hooks[1].switch_epoch, 1)]


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


def test_processes_without_a_launcher_are_told_to_use_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CommandError, match=r"--launcher pytorch needs RANK.*; start it through tools/dist_train\.sh"):
        join_processes(Config(dict()), "pytorch")


@pytest.mark.parametrize("idle", [True, False])
def test_processes_on_a_cpu_wait_for_idle_weights_or_not_as_the_config_says(idle, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(session, "join_group", lambda *_: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = Config(dict(find_unused_parameters=idle))
    join_processes(cfg, "pytorch")
    assert cfg.model_wrapper_cfg == dict(
        type="MMDistributedDataParallel", find_unused_parameters=idle, broadcast_buffers=False, device_ids=None
    )


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [
        ("EncoderDecoder", "slide", "SlidingEncoderDecoder"),
        ("EncoderDecoder", "whole", "EncoderDecoder"),
        ("CascadeEncoderDecoder", "slide", "CascadeEncoderDecoder"),
    ],
)
def test_sliding_windows_go_in_batches_where_the_segmentor_is_the_hosts_plain_one(kind, mode, expected):
    cfg = Config(dict(model=dict(type=kind, test_cfg=dict(mode=mode, crop_size=(64, 64), stride=(40, 40)))))
    batch_windows(cfg)
    assert cfg.model.type == expected
    assert batch_windows(Config(dict())) is None


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
    # `--gpus-per-task=1`: each task of a machine sees its own GPU and calls it 0.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    read_slurm_environment()
    assert os.environ["LOCAL_RANK"] == "0"
