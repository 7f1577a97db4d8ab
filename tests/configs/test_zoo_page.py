"""docs/zoo.md and `hybrid-dense configs` say what the configs are."""

import json
import re
from dataclasses import astuple
from pathlib import Path

import pytest

from hybrid_dense.cli import configs, full_scale, main
from hybrid_dense.cli.session import read_config

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


COSTS = full_scale.read_costs(configs.CONFIGS)


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    """The cells of the first table of docs/zoo.md by the config's name, and those of its header."""
    listed = (PROJECT / "docs/zoo.md").read_text().split("\n## ")[0]
    lines = [line for line in listed.splitlines() if line.startswith("|")]
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


def test_the_trainings_at_full_scale_are_what_configs_and_measurements_say():
    text = (PROJECT / "docs/zoo.md").read_text()
    assert text.endswith(full_scale.section(configs.CONFIGS)), "run `hybrid-dense configs --markdown`"


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.configs[0])
def test_costs_are_those_of_the_models(cost):
    models = [read_config(configs.CONFIGS / f"{name}.py") for name in cost.configs]
    for cfg in models:
        assert cfg.model == models[0].model, "measured with another model"
        assert full_scale.square_side(configs.image_size(cfg)) == cost.side
        assert configs.backbone_gflops(cfg, (cost.side, cost.side)) == cost.backbone_gflops, "counted anew?"
    assert cost.backbone_gflops < cost.gflops and cost.step_gib < cost.memory_gib


@pytest.mark.parametrize(
    ("loop", "seen", "validated"),
    [
        (dict(max_epochs=12, val_interval=1), 12 * 100, 12 * 10),
        (dict(max_epochs=36, val_interval=5), 36 * 100, 8 * 10),
        (dict(max_iters=800, val_interval=80), 800 * 16, 10 * 10),
    ],
)
def test_images_of_a_schedule(loop, seen, validated):
    assert full_scale.count_images(loop, train=100, val=10, step=16) == (seen, validated)


def test_a_cost_is_counted_and_measured(capsys):
    assert main(["configs", "--cost", str(configs.CONFIGS / "demo.py")]) == 0
    cost = full_scale.Cost(**json.loads(capsys.readouterr().out))
    assert (cost.configs, cost.side, cost.images) == (["demo"], 160, 1)
    assert 0 < cost.backbone_gflops < cost.gflops and 0 < cost.step_gib < cost.memory_gib < 1


def test_a_cost_that_cannot_be_measured_is_one_line(capsys, monkeypatch):
    from hybrid_dense.cli import benchmark_memory

    classifier = configs.CONFIGS / "results/cifar10/hybrid.py"
    assert main(["configs", "--cost", str(classifier)]) == 2
    assert f"{classifier} trains neither a detector nor a segmentor" in capsys.readouterr().err

    def too_large(subject, order):
        raise benchmark_memory.DoesNotFit("its step needs more memory; it may take 1.0 GiB")

    monkeypatch.setattr(benchmark_memory, "measured_apart", too_large)
    assert main(["configs", "--cost", str(configs.CONFIGS / "demo.py")]) == 2
    assert capsys.readouterr().err.strip().endswith("demo.py: its step needs more memory; it may take 1.0 GiB")


def test_mask_heads_are_counted_on_the_boxes_of_a_training():
    from mmengine.registry import DefaultScope

    def masks(name: str) -> int:
        with DefaultScope.overwrite_default_scope("mmdet"):
            return full_scale.count_masks(configs.build(configs.load(configs.CONFIGS / f"{name}.py").model))

    convolutions, upsampling, classes = 4 * 256 * 256 * 9 * 14**2, 256 * 256 * 4 * 14**2, 256 * 80 * 28**2
    one = 2 * 128 * (convolutions + upsampling + classes)
    assert masks("instance/mask_rcnn_rx50_vit_s_coco_1x") == one
    assert masks("instance/cascade_mask_rcnn_rx50_vit_s_coco_1x") == 3 * one
    assert masks("detection/faster_rcnn_rx50_vit_s_coco_1x") == 0


def test_memory_of_a_second_image_and_a_side_of_whole_cells():
    cost = full_scale.Cost(("a",), 1056, 1, 700.0, 500.0, memory_gib=6.0, step_gib=5.0)
    assert (cost.memory_of(1), cost.memory_of(2)) == (6.0, 11.0)
    assert (full_scale.square_side((800, 1333)), full_scale.square_side((512, 512))) == (1056, 512)


def test_a_filter_chooses_rows_by_any_column(capsys, monkeypatch):
    chosen = [configs.CONFIGS / name for name in ("demo.py", "demo_semantic.py")]
    monkeypatch.setattr(configs, "list_configs", lambda: chosen)
    assert main(["configs", "MASKrcnn"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["config", "task"]
    assert [row.split()[0] for row in rows] == ["demo"]
    assert rows[0].index("instance") == header.index("task")


def test_a_filter_that_fits_nothing_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr(configs, "list_configs", lambda: [configs.CONFIGS / "demo.py"])
    assert main(["configs", "yolo"]) == 2
    assert "no config has 'yolo' in its row" in capsys.readouterr().err


@pytest.mark.parametrize("instead", ["--markdown", "--cost a.py", "--dump a.py a.json"])
def test_a_filter_is_of_the_list_only(instead, capsys):
    assert main(["configs", "demo", *instead.split()]) == 2
    assert "'demo' chooses rows of the list only; leave it out here" in capsys.readouterr().err


def test_an_installation_without_the_configs_says_where_they_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "CONFIGS", tmp_path / "configs")
    assert main(["configs"]) == 2
    assert "the configs come with a clone of the project" in capsys.readouterr().err
