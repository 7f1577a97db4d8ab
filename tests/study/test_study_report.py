"""Tables, sections and pictures of studies: every figure stands in its column, and without results there is nothing."""

import json

import numpy as np
import pytest
from matplotlib import image as pictures

from hybrid_dense.report.study_curves import mean_curve, save_study_curves
from hybrid_dense.report.study_tables import (
    FOR_TERMINALS,
    chance,
    difference_rows,
    further_rows,
    model_rows,
    overview_rows,
    read_robustness,
    robustness_rows,
    split_rows,
    study_sections,
)
from hybrid_dense.study.robustness import read_measured, sum_up_robustness, write_measured


def entry(metric, minutes, **more):
    base = dict(metric=metric, sd=0.012, seeds=[0, 1], metrics=[metric - 0.01, metric + 0.01], metric_name="mIoU")
    base |= dict(title="CamVid", study="camvid.yaml", split="val", checkpoint="best", reference="hybrid")
    base |= dict(params=4_700_000, epochs=90, iterations=9000, train_minutes=minutes, planned_minutes=40)
    base |= dict(validations=9, machine="a CPU", commit="abc", also={})
    return dict(base, splits=dict(val=dict(metric=metric, interval=[metric - 0.02, metric + 0.02])), **more)


@pytest.fixture
def summary():
    found = dict(hybrid=entry(0.72, 40.0), cnn=entry(0.70, 30.0))
    above = dict(cnn=dict(difference=0.02, interval=[-0.001, 0.041], p=0.031))
    found["hybrid"]["splits"]["val"]["above"] = above
    for model in found.values():
        model["splits"]["test"] = dict(metric=model["metric"] - 0.1)
    return found


def test_models_with_spread_size_and_time(summary):
    header, (hybrid, cnn) = model_rows(summary)
    assert header[:2] == ("model", "val mIoU")
    assert hybrid == (
        *("hybrid", "0.7200 ± 0.0120", "0.7100, 0.7300", "0.7000 … 0.7400", "4.70", "90 epochs", "40.0", "1.00"),
    )
    assert cnn[-2:] == ("30.0", "0.75")
    summary["cnn"].update(sd=None, epochs=0)
    summary["cnn"]["splits"]["val"].pop("interval")
    assert model_rows(summary)[1][1][1:6] == ("0.7000", "0.6900, 0.7100", "–", "4.70", "9000 iterations")
    assert model_rows(summary, FOR_TERMINALS)[1][1] == ("cnn", "0.7000", "–", "4.70", "30.0")


def test_further_figures_where_a_study_asks_for_them(summary):
    assert further_rows(summary)[1] == []
    for model, entry in summary.items():
        entry["also"] = dict(mAcc=len(model) / 10, aAcc=0.9)
    expected = ("model", "mAcc", "aAcc"), [("hybrid", "0.6000", "0.9000"), ("cnn", "0.3000", "0.9000")]
    assert further_rows(summary) == expected
    assert "| hybrid | 0.6000 | 0.9000 |" in study_sections(dict(camvid=summary), {}, "../results")


def test_differences_and_other_splits(summary):
    assert difference_rows(summary)[1] == [
        ("hybrid − cnn", "val", "+0.0200", "-0.0010 … +0.0410", "0.0310", "2, 2"),
    ]
    assert split_rows(summary) == (
        ("model", "test mIoU", "95 % interval"),
        [("hybrid", "0.6200", "–"), ("cnn", "0.6000", "–")],
    )
    for model in summary.values():
        del model["splits"]["test"]
    assert split_rows(summary)[1] == []
    assert (chance(0.0), chance(0.0001)) == ("< 0.0001", "0.0001")


def test_sections_hold_all_tables_and_nothing_without_results(summary, tmp_path):
    measured = dict(clean=0.7, corruptions=dict(noise=[0.6, 0.5, 0.4, 0.3, 0.2]), mean=0.4, relative=4 / 7, runs=2)
    text = study_sections(dict(camvid=summary), dict(camvid=dict(hybrid=measured)), "../results")
    for part in (
        *("### CamVid", "`hybrid-dense study camvid.yaml`", "the best checkpoint of each training by validation"),
        *("a CPU", "Commit: abc", "| hybrid − cnn | val | +0.0200 |", "(../results/camvid/curves.png)"),
        "| hybrid | noise | 0.600 | 0.500 | 0.400 | 0.300 | 0.200 | 0.400 | 0.571 |",
    ):
        assert part in text
    assert overview_rows(dict(camvid=summary))[1][0][:3] == ("camvid: val mIoU", "hybrid", "0.7200 ± 0.0120")
    assert study_sections({}, {}, "../results") == ""
    assert overview_rows({})[1] == []
    assert read_robustness(tmp_path, ["camvid"]) == {}


def test_robustness_is_the_mean_of_seeds_over_what_all_have(tmp_path):
    for seed, clean in enumerate((0.6, 0.8)):
        corruptions = dict(noise=[clean - 0.1 * strength for strength in range(1, 6)])
        if seed == 0:
            corruptions["blur"] = [0.1] * 5
        write_measured(tmp_path / f"toy/hybrid/seed{seed}/robustness.json", dict(clean=clean, corruptions=corruptions))
    one = read_measured(tmp_path / "toy/hybrid/seed1/robustness.json")
    assert (one["mean"], one["relative"]) == (pytest.approx(0.5), pytest.approx(0.625))
    found = sum_up_robustness(tmp_path, "toy", ["hybrid", "cnn"])
    assert found == json.loads((tmp_path / "toy/robustness.json").read_text())
    assert found.keys() == {"hybrid"}
    assert found["hybrid"]["corruptions"] == dict(noise=pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2]))
    assert (found["hybrid"]["clean"], found["hybrid"]["mean"]) == (pytest.approx(0.7), pytest.approx(0.4))
    header, rows = robustness_rows(found)
    assert {len(row) for row in rows} == {len(header)}
    assert read_measured(tmp_path / "none.json") == dict(of=None, clean=None, corruptions={})


def test_curves_are_drawn_small(tmp_path):
    random = np.random.default_rng(0)

    def run(seed):
        values = [0.7 - 0.6 / step + 0.02 * random.normal() for step in range(1, 61)]
        return dict(curve=[[step, step / 2, value] for step, value in enumerate(values, 1)], curve_unit="epoch")

    runs = {name: [run(seed) for seed in range(3)] for name in ("hybrid", "cnn", "vit")}
    path = save_study_curves(runs, "mIoU", tmp_path / "out" / "curves.png")
    assert pictures.imread(path)[..., :3].std() > 0.01
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="has logged mIoU"):
        save_study_curves(dict(hybrid=[dict(curve=[], curve_unit="epoch")]), "mIoU", tmp_path / "none.png")


def test_the_mean_curve_is_over_the_common_steps():
    curves = [np.array([[1, 2, 0.1], [2, 4, 0.3], [3, 6, 0.9]]), np.array([[1, 4, 0.3], [2, 8, 0.5]])]
    np.testing.assert_allclose(mean_curve(curves), [[1, 3, 0.2], [2, 6, 0.4]])
    alone = [np.array([[1.0, 2, 0.1]]), np.array([[2.0, 2, 0.1]])]
    assert mean_curve(alone).shape == (0, 3)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "robustness.json").write_text('{"clean": 0.')
    with pytest.raises(ValueError, match=r"robustness\.json is damaged .*; move it away"):
        read_measured(tmp_path / "robustness.json")
