"""The page on fusion rules: its file of one's own works as it stands there, and its figures are true."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.analysis.complexity import count_parameters
from hybrid_dense.archs import parse_variant
from hybrid_dense.fusion import build_fusion

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "fusion.md").read_text()
SECTION = PAGE.split("## Add your own fusion")[1]
RULE, CONFIG = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
TOPOLOGIES = [name for name in hybrid_dense.list_topologies() if not name.startswith("Plain")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """What a stranger does with the page: two files, and a config that is read."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "film_fusion.py").write_text(RULE)
    (tmp_path / "mine.py").write_text(CONFIG.replace("/path/to", str(PROJECT)))
    importlib.invalidate_caches()
    yield Config.fromfile(tmp_path / "mine.py")
    MODELS.module_dict.pop("FilmFusion")
    sys.modules.pop("film_fusion")


@pytest.fixture
def build(config):
    def call(topology="ParallelResNeXtViT", **fusion):
        torch.manual_seed(0)
        rule = dict(config.model.backbone.fusion, **fusion)
        return MODELS.build(dict(type=topology, variant="rxnano_vit_pico", fusion=rule)).eval()

    return call


def test_it_is_one_file_of_under_40_lines():
    assert len(RULE.splitlines()) < 40
    assert RULE.count("register_module") == 1


def test_the_config_makes_the_rule_known(config):
    assert "FilmFusion" in hybrid_dense.list_fusions()
    assert config.model.backbone.type == "ParallelResNeXtViT"
    base = Config.fromfile(PROJECT / "configs/mask_rcnn_rx50_vit.py").custom_imports.imports
    assert config.custom_imports.imports == [*base, "film_fusion"]
    assert config.model.backbone.fusion == dict(type="FilmFusion", direction="both")


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_shapes_and_an_untouched_cnn_at_step_0(build, topology):
    backbone = build(topology)
    images = torch.randn(1, 3, 65, 40)
    with torch.no_grad():
        maps = backbone(images)
        assert [level.shape[-2:] for level in maps] == [(17, 10), (9, 5), (5, 3), (3, 2)]
        assert tuple(level.shape[1] for level in maps) == tuple(backbone.out_channels)
        for hybrid, alone in zip(maps, backbone.cnn(images), strict=True):
            assert torch.equal(hybrid, alone)


def test_it_does_what_it_says(build):
    fusion = build().fusions[1]
    conv, grid = torch.randn(2, 128, 5, 7), torch.randn(2, 96, 3, 4)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        scale, shift = fusion.to_cnn.scale(grid, (5, 7)), fusion.to_cnn.shift(grid, (5, 7))
        assert torch.equal(fusion(conv, grid)[0], conv * (1 + scale) + shift)
        assert scale.std() > 0.1
        assert shift.std() > 0.1


def test_every_parameter_learns_within_two_steps(build):
    backbone = build().train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01)
    idle = {name for name, _ in backbone.fusions.named_parameters()}
    assert idle
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        sum((level * torch.randn_like(level)).mean() for level in backbone(torch.randn(2, 3, 64, 64))).backward()
        assert all(parameter.grad is not None for parameter in backbone.parameters())
        idle -= {name for name, parameter in backbone.fusions.named_parameters() if parameter.grad.any()}
        optimizer.step()
    assert not idle


@pytest.mark.parametrize(
    ("direction", "bridges"), [("both", (True, True)), ("to_cnn", (True, False)), ("to_vit", (False, True))]
)
def test_direction_is_done_for_it(build, direction, bridges):
    fusion = build(direction=direction).fusions[0]
    assert (fusion.to_cnn is not None, fusion.to_vit is not None) == bridges


def test_it_is_gone_afterwards():
    assert "FilmFusion" not in hybrid_dense.list_fusions()


def test_the_table_lists_every_rule_with_its_parameters():
    cnn, vit = parse_variant("rx50_vit_s")
    rows = dict(re.findall(r"^\| `(\w+Fusion)` \|.*\| ([\d.]+) \|[^|]*\|$", PAGE, flags=re.MULTILINE))
    assert sorted(rows) == hybrid_dense.list_fusions()
    with torch.device("meta"):
        counted = {
            rule: f"{count_parameters(build_fusion(dict(type=rule), cnn.features[2], vit.features)) / 1e6:.2f}"
            for rule in rows
        }
    assert rows == counted


def test_the_page_reads_the_gates():
    (snippet,) = re.findall(r"```python\n(gates = .*?)```", PAGE, flags=re.DOTALL)
    backbone = MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")).eval()
    names = dict(backbone=backbone, images=torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        exec(snippet, names)
    shapes = [tuple(names["gates"][stage].shape) for stage in (1, 2, 3, 4)]
    assert shapes == [(1, 64, 4, 4), (1, 128, 4, 4), (1, 256, 4, 4), (1, 512, 2, 2)]  # strides 16, 16, 16, 32
