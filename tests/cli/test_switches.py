"""What the switches of `train` make of a config."""

import argparse
import re

import pytest
import torch
from mmengine.config import Config

from hybrid_dense.cli import CommandError, switches
from hybrid_dense.cli.arguments import add_precision_arguments, add_speed_arguments
from hybrid_dense.cli.switches import describe_training, set_precision, set_switches
from hybrid_dense.engine import precision


def config(**changes):
    return Config(
        dict(
            model=dict(type="RetinaNet", backbone=dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4)),
            train_dataloader=dict(batch_size=2),
            custom_hooks=[dict(type="MetricsReportHook")],
            **changes,
        )
    )


def parse(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    add_precision_arguments(parser)
    add_speed_arguments(parser)
    return parser.parse_args(["config.py", *words])


def switch(cfg, *words):
    args = parse(*words)
    set_precision(cfg, args.amp)
    set_switches(cfg, args)
    return cfg


def hooks(cfg):
    return {hook.type: hook for hook in cfg.custom_hooks}


@pytest.mark.parametrize(
    ("words", "amp"),
    [
        ([], None),
        (["--amp"], "bf16"),
        (["--amp", "bf16"], "bf16"),
        (["--amp", "fp16"], "fp16"),
        (["--amp=fp32"], "fp32"),
        (["--amp", "bfloat16"], "bf16"),
        (["--no-amp"], "fp32"),
        (["--amp", "--accumulate", "2"], "bf16"),
    ],
)
def test_words_for_the_precision(words, amp):
    assert parse(*words).amp == amp


def test_a_word_that_is_no_precision_says_what_went_wrong(capsys):
    with pytest.raises(SystemExit):
        parse("--amp", "configs/demo.py")
    assert "'configs/demo.py' is not bf16, fp16 or fp32; --amp without one comes last" in capsys.readouterr().err


def test_without_switches_a_config_stays_what_it_is():
    before = config().dump()
    assert switch(config()).dump() == before


def test_bf16_is_the_hook_alone():
    cfg = switch(config(), "--amp")
    assert hooks(cfg)["AutocastHook"].dtype == "bfloat16"
    assert cfg.optim_wrapper == config().optim_wrapper


def test_fp16_brings_loss_scaling():
    cfg = switch(config(), "--amp", "fp16")
    assert hooks(cfg)["AutocastHook"].dtype == "float16"
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ("GuardedOptimWrapper", "float16")


def test_fp16_in_the_config_brings_loss_scaling_too():
    cfg = config()
    cfg.custom_hooks = [dict(type="AutocastHook", dtype="float16")]
    assert switch(cfg).optim_wrapper.dtype == "float16"


@pytest.mark.parametrize(("word", "left"), [("fp32", set()), ("bf16", {"AutocastHook"})])
def test_another_precision_takes_the_scaling_away(word, left):
    cfg = switch(switch(config(), "--amp", "fp16"), "--amp", word)
    assert set(hooks(cfg)) - {"MetricsReportHook"} == left
    assert "dtype" not in cfg.optim_wrapper


@pytest.mark.parametrize(
    ("stated", "words", "hook", "scaled"),
    [
        (dict(loss_scale="dynamic"), [], "float16", True),
        (dict(dtype="bfloat16"), [], "bfloat16", False),
        (dict(), ["--amp", "bf16"], "bfloat16", False),
        (dict(), ["--no-amp"], None, False),
    ],
)
def test_configs_with_mmengines_wrapper_train_on_cpus_too(stated, words, hook, scaled):
    cfg = config()
    cfg.optim_wrapper = dict(stated, type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.1))
    cfg = switch(cfg, *words)
    assert hooks(cfg).get("AutocastHook", {}).get("dtype") == hook
    assert cfg.optim_wrapper.type == ("GuardedOptimWrapper" if scaled else "OptimWrapper")
    assert cfg.optim_wrapper.get("dtype") == ("float16" if scaled else None)
    assert ("loss_scale" in cfg.optim_wrapper) == ("loss_scale" in stated and scaled)


def test_accumulation_counts_for_the_learning_rate():
    cfg = config(auto_scale_lr=dict(enable=True, base_batch_size=16))
    assert switch(cfg, "--accumulate", "4").optim_wrapper.accumulative_counts == 4
    assert cfg.auto_scale_lr.base_batch_size == 4
    # A config that accumulates already is made for it.
    cfg = config(auto_scale_lr=dict(enable=True, base_batch_size=16))
    cfg.optim_wrapper.accumulative_counts = 2
    assert switch(cfg, "--accumulate", "4").auto_scale_lr.base_batch_size == 8
    with pytest.raises(CommandError, match="--accumulate 0"):
        switch(config(), "--accumulate", "0")


def test_checkpointing_where_the_backbone_has_it():
    assert switch(config(), "--checkpointing").model.backbone.with_cp is True
    assert switch(config(), "--no-checkpointing").model.backbone.with_cp is False
    cfg = config()
    cfg.model.backbone = dict(type="MobileNet")
    with pytest.raises(CommandError, match="model.backbone MobileNet has no option with_cp; leave the switch out"):
        switch(cfg, "--checkpointing")
    cfg.model.backbone = None
    with pytest.raises(CommandError, match="a model without a backbone"):
        switch(cfg, "--checkpointing")


def test_ema_averages_what_the_optimizer_does():
    hook = hooks(switch(config(), "--accumulate", "4", "--ema"))["EMAHook"]
    assert (hook.momentum, hook.interval, hook.gamma, hook.update_buffers) == (0.0002, 4, 40, True)
    assert hooks(switch(config(), "--ema", "0.01"))["EMAHook"].momentum == 0.01
    assert "EMAHook" not in hooks(switch(config()))
    for momentum in ("0", "1", "-1"):
        with pytest.raises(CommandError, match="is no momentum"):
            switch(config(), f"--ema={momentum}")


def test_an_ema_of_the_config_stays_its_own():
    cfg = config()
    cfg.custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.1)]
    assert list(switch(cfg, "--ema").custom_hooks) == [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.1)]
    assert hooks(switch(cfg, "--ema", "0.3"))["EMAHook"].momentum == 0.3


def test_compilation_is_on_or_off():
    cfg = switch(config(), "--compile")
    assert "CompileHook" in hooks(cfg)
    assert len(switch(cfg, "--compile").custom_hooks) == 2
    assert "CompileHook" not in hooks(switch(cfg, "--no-compile"))


def test_tf32_is_written_down():
    assert "tf32" not in switch(config())
    assert switch(config(), "--no-tf32").tf32 is False
    assert switch(config(), "--tf32").tf32 is True


def test_one_line_says_what_a_training_uses(monkeypatch):
    monkeypatch.setattr(switches, "computes", lambda device, dtype: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = switch(config(), "--amp", "--accumulate", "4", "--checkpointing")
    assert re.fullmatch(
        r"training on cpu( \(.+\))?: bfloat16, 3 processes × 2 images × 4 accumulated = 24 images a step, "
        "compile off, checkpointing on, EMA off",
        describe_training(cfg, 3),
    )
    cfg = switch(config(), "--compile", "--ema", "--no-amp")
    assert "float32, 1 process × 2 images = 2 images a step, compile on, checkpointing off, EMA on" in (
        describe_training(cfg, 1)
    )


def test_the_line_names_the_gpu(monkeypatch):
    monkeypatch.setattr(switches, "computes", lambda device, dtype: device.type == "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    line = describe_training(switch(config(), "--amp"), 8)
    assert line.startswith("training on cuda (NVIDIA H100): bfloat16, 8 processes × 2 images = 16 images a step, ")


def test_what_a_training_needs_is_named():
    cfg = config()
    cfg.pop("train_dataloader")
    with pytest.raises(CommandError, match="no train_dataloader"):
        describe_training(cfg, 1)
    cfg.pop("optim_wrapper")
    for words in (["--accumulate", "2"], ["--ema"]):
        with pytest.raises(CommandError, match=f"{words[0]}: the config has no optim_wrapper"):
            switch(cfg, *words)


def test_the_line_leaves_a_wrong_batch_to_the_loader():
    cfg = config()
    cfg.train_dataloader.batch_size = 0
    assert "1 process × 0 images" in describe_training(cfg, 1)


def test_the_line_tells_the_precision_that_is_used_and_not_the_one_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(switches, "computes", lambda device, dtype: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ": float32 (cpu without native float16), " in describe_training(switch(config(), "--amp", "fp16"), 1)


def test_precision_that_nobody_knows():
    cfg = config()
    cfg.custom_hooks = [dict(type="AutocastHook", dtype="int8")]
    with pytest.raises(CommandError, match="computes in 'int8'; bfloat16, float16, float32 are known"):
        set_precision(cfg, None)
    assert precision.HALVES.keys() < set(switches.PRECISIONS.values())
