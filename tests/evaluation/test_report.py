"""The report: its figures, its files, and the hook in real, minuscule runs of mmengine's Runner."""

import itertools
import json

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from hybrid_dense.evaluation.classes import ClassTable
from hybrid_dense.evaluation.report import print_report, to_markdown, write_report

NAN = float("nan")
FIGURES = {"coco/bbox_mAP": 0.3125, "coco/bbox_mAP_s": -1.0, "mIoU": 71.25, "mBIoU": NAN}


def table(classes: int = 12) -> ClassTable:
    """AP of class i is i hundredths; the last one has none."""
    rows = {f"class {i}": {"AP": i / 100, "AP_s": NAN, "objects": 3 * i} for i in range(classes)}
    rows["absent"] = {"AP": NAN, "AP_s": NAN, "objects": 0}
    return ClassTable("coco/bbox", rows)


def cells(text: str, start: str) -> list[list[str]]:
    """Rows of the Markdown table whose header begins so."""
    lines = itertools.dropwhile(lambda line: not line.startswith(f"| {start}"), text.splitlines())
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows][2:]


def test_classes_are_ranked_by_the_first_measure_and_those_without_left_out():
    assert table(3).ranked() == ["class 2", "class 1", "class 0"]
    assert table().measures == ("AP", "AP_s", "objects")
    assert ClassTable("empty", {}).ranked() == []


def test_markdown_has_the_headline_the_extremes_and_every_class():
    text = to_markdown("Test", FIGURES, [table()])
    assert text.startswith("# Test\n")
    assert dict(cells(text, "metric")) == {
        "coco/bbox_mAP": "0.312",
        "coco/bbox_mAP_s": "–",
        "mIoU": "71.25",
        "mBIoU": "–",
    }
    extremes = cells(text, "best")
    assert [row[0] for row in extremes] == [f"class {i}" for i in (11, 10, 9, 8, 7)]
    assert [row[2] for row in extremes] == [f"class {i}" for i in (0, 1, 2, 3, 4)]
    assert extremes[0][1] == "0.110"
    every = cells(text, "class |")
    assert len(every) == 13 and every[0] == ["class 11", "0.110", "–", "33"] and every[-1][0] == "absent"


def test_few_classes_are_best_and_worst_at_once():
    assert [(row[0], row[2]) for row in cells(to_markdown("", {}, [table(2)]), "best")] == [
        ("class 1", "class 0"),
        ("class 0", "class 1"),
    ]


def test_a_pipe_in_a_class_name_stays_in_its_cell():
    text = to_markdown("", {}, [ClassTable("t", {"a|b": {"IoU": 50.0}})])
    assert text.count(r"a\|b") == 3 and "a|b" not in text


def test_json_has_figures_at_the_top_and_is_valid_with_nothing_to_measure(tmp_path):
    write_report(tmp_path / "new", "Test", FIGURES, [table(1)])
    text = (tmp_path / "new/metrics.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content.pop("per_class") == {
        "coco/bbox": {
            "class 0": {"AP": 0.0, "AP_s": None, "objects": 0},
            "absent": {"AP": None, "AP_s": None, "objects": 0},
        }
    }
    assert content == {"coco/bbox_mAP": 0.3125, "coco/bbox_mAP_s": -1.0, "mIoU": 71.25, "mBIoU": None}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.json", "metrics.md"]


def test_it_prints_the_headline_and_the_extremes(capsys):
    print_report("Test", FIGURES, [table()])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("coco/bbox_mAP", "0.312", "class 11", "class 0"))
    assert "class 5" not in printed and "absent" not in printed


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode="tensor"):
        return dict(loss=self.layer(torch.ones(1)).square().mean()) if mode == "loss" else [0]


class Images(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class Counting(BaseMetric):
    """Its figure counts the evaluations."""

    def __init__(self):
        super().__init__(prefix="toy")
        self.evaluations = 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.evaluations += 1
        self.class_tables = [ClassTable("toy", {"thing": {"AP": self.evaluations / 10}})]
        return dict(mAP=self.evaluations / 10, note="not a number")


class Plain(BaseMetric):
    """A host's metric: no table."""

    default_prefix = "plain"

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(loss=torch.tensor(0.5))


@pytest.fixture
def run(tmp_path, request):
    def build(**options):
        loader = dict(dataset=Images(), batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler))
        arguments = dict(
            model=Toy(),
            work_dir=str(tmp_path / "run"),
            experiment_name=f"{request.node.name}{len(list(tmp_path.iterdir()))}",
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            val_dataloader=loader,
            val_cfg={},
            val_evaluator=[Counting(), Plain()],
            test_dataloader=loader,
            test_cfg={},
            test_evaluator=[Counting(), Plain()],
            default_hooks=dict(logger=None, checkpoint=None),
            custom_hooks=[dict(type="MetricsReportHook")],
            log_level="ERROR",
        )
        return Runner(**{**arguments, **options})

    return build


def test_the_last_validation_of_a_training_is_on_file(run, tmp_path, capsys):
    run().train()
    content = json.loads((tmp_path / "run/metrics.json").read_text())
    assert content == {"toy/mAP": 0.2, "plain/loss": 0.5, "per_class": {"toy": {"thing": {"AP": 0.2}}}}
    assert (tmp_path / "run/metrics.md").read_text().startswith("# Validation after 2 epochs, 4 steps\n")
    assert "thing" not in capsys.readouterr().out


def test_training_by_iterations_has_no_epochs(run, tmp_path):
    run(train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3)).train()
    assert (tmp_path / "run/metrics.md").read_text().startswith("# Validation after 3 steps\n")


def test_a_validation_alone_builds_no_training_loop(run, tmp_path):
    runner = run()
    runner.val()
    assert (tmp_path / "run/metrics.md").read_text().startswith("# Validation\n")
    assert isinstance(runner._train_loop, dict)


def test_a_test_is_printed_and_written(run, tmp_path, capsys):
    run().test()
    assert (tmp_path / "run/metrics.md").read_text().startswith("# Test\n")
    assert "toy/mAP" in capsys.readouterr().out


def test_other_ranks_write_nothing(run, tmp_path, monkeypatch):
    runner = run()
    monkeypatch.setattr(runner, "_rank", 1)
    runner.test()
    assert not (tmp_path / "run/metrics.json").exists()
