"""docs/necks.md: its figures are counted, its options are those of the classes, and its configs work."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from hybrid_dense.analysis.complexity import count_flops, count_parameters
from hybrid_dense.necks import Neck, list_necks

PAGE = (Path(__file__).parents[2] / "docs" / "necks.md").read_text()
COSTS = re.findall(r"^\| `(\w+)`(?:, `(.*)`)? \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
CONFIGS = re.findall(r"^```python\nneck = (.*?)```$", PAGE, flags=re.DOTALL | re.MULTILINE)
CHANNELS = [256, 512, 1024, 2048]


def ours():
    return [MODELS.get(name) for name in list_necks() if MODELS.get(name).__module__.startswith("hybrid_dense.")]


def read_call(text):
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in ast.parse(text, mode="eval").body.keywords}


def run(config, size):
    with torch.device("meta"), torch.no_grad():
        neck = MODELS.build(config).eval()
        maps = [
            torch.empty(1, channels, size // stride, size // stride)
            for channels, stride in zip(neck.in_channels, neck.strides, strict=True)
        ]
        return neck, count_flops(lambda: neck(maps)), neck(maps)


@pytest.mark.parametrize(("neck", "options", "millions", "gigas"), COSTS)
def test_costs(neck, options, millions, gigas):
    config = dict(dict(type=neck, in_channels=CHANNELS), **read_call(f"dict({options})"))
    neck, flops, _ = run(config, 512)
    assert f"{count_parameters(neck) / 1e6:.2f}" == millions
    assert f"{flops / 1e9:.1f}" == gigas


def test_every_neck_has_a_cost_and_a_config():
    names = {neck.__name__ for neck in ours()}
    assert {name for name, *_ in COSTS} == names
    assert {read_call(config)["type"] for config in CONFIGS} == names


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_work(config):
    config = read_call(config)
    _, _, maps = run(config, 512)
    assert [level.shape[-1] for level in maps] == [128 >> config.get("start_level", 0) + i for i in range(len(maps))]
    assert {level.shape[1] for level in maps} == {256}
    assert len(maps) == config["num_outs"]


def test_every_option_is_explained():
    common = set(inspect.signature(Neck).parameters) - {"init_cfg"}
    shared, own = PAGE.split("## Options of all three")[1].split("## In a config")[0].split("\n\n|", 2)[1:]
    assert set(re.findall(r"^\|? ?`(\w+)` \|", shared, flags=re.MULTILINE)) == common
    for neck in ours():
        (row,) = re.findall(rf"^\| `{neck.__name__}` \| (.*) \|$", own, flags=re.MULTILINE)
        options = inspect.signature(neck).parameters
        named = set(options) - common - {"options"}
        assert {name for name in named if f"`{name}" not in row} == set()
        for name, default in re.findall(r"`(\w+)=([^`]+)`", row):
            assert ast.literal_eval(default) == options[name].default
