"""docs/zoo.md and `hybrid-dense configs` say what the configs are."""

import json
import re
from dataclasses import astuple
from pathlib import Path

import pytest

from hybrid_dense.cli import configs, main

PROJECT = Path(__file__).parents[2]
# Cheap ones of every kind: both hosts, a head that cannot be built on the meta device, two sizes of one backbone.
REGENERATED = (
    "demo",
    "demo_semantic",
    "tiny_coco",
    "detection/retinanet_rx50_vit_s_voc0712_1x",
    "panoptic/mask2former_rx50_vit_s_coco_lsj_50e",
    "semantic/segmenter_rx50_voc12aug_512_80k",
    "semantic/upernet_rx50_vit_s_camvid_360x480_20k",
)


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    """The cells of docs/zoo.md by the config's name, and those of its header."""
    lines = [line for line in (PROJECT / "docs/zoo.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.sub(r"\[(.*)\]\(.*\)", r"\1", row[0]): row[1:] for row in rows}


def test_every_config_has_its_row_and_no_other(table):
    leaves = {str(path.relative_to(configs.CONFIGS).with_suffix("")) for path in configs.list_configs()}
    assert set(table) - {"config", "---"} == leaves
    assert table["config"] == list(astuple(configs.HEADER))[1:]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REGENERATED)
def test_rows_are_what_the_configs_are(table, name):
    row = configs.describe(configs.CONFIGS / f"{name}.py")
    assert [row.config, *table[row.config]] == list(astuple(row)), "run `hybrid-dense configs --markdown`"


def test_parameters_are_those_of_the_model_that_is_trained():
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    from hybrid_dense.channels import fill_channels

    cfg = Config.fromfile(configs.CONFIGS / "demo.py")
    fill_channels(cfg)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    assert configs.count_model_parameters(cfg) == sum(parameter.numel() for parameter in model.parameters())


def test_measured_figures_belong_to_configs_and_stand_in_the_results():
    measured = json.loads((configs.CONFIGS / "measured.json").read_text())
    results = (PROJECT / "docs/results.md").read_text()
    for name, figures in measured.items():
        assert (configs.CONFIGS / f"{name}.py").is_file()
        assert all(number in results for number in re.findall(r"\d\.\d+", figures)), name


def test_a_filter_chooses_rows_by_any_column(capsys, monkeypatch):
    chosen = [configs.CONFIGS / name for name in ("demo.py", "demo_semantic.py")]
    monkeypatch.setattr(configs, "list_configs", lambda: chosen)
    assert main(["configs", "MASKrcnn"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["config", "task"]
    assert [row.split()[0] for row in rows] == ["demo"]
    assert rows[0].index("instance") == header.index("task")


def test_a_filter_that_fits_nothing_and_a_filtered_page_are_errors(capsys, monkeypatch):
    monkeypatch.setattr(configs, "list_configs", lambda: [configs.CONFIGS / "demo.py"])
    assert main(["configs", "yolo"]) == 2
    assert "no config has 'yolo' in its row" in capsys.readouterr().err
    assert main(["configs", "demo", "--markdown"]) == 2
    assert "leave the filter out" in capsys.readouterr().err


def test_an_installation_without_the_configs_says_where_they_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "CONFIGS", tmp_path / "configs")
    assert main(["configs"]) == 2
    assert "the configs come with a clone of the project" in capsys.readouterr().err
