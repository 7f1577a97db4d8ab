"""Curves of a run: every number lands on the right axes at the right time, and a bad log is named in one line."""

import json

import numpy as np
import pytest
from matplotlib import image as pictures
from matplotlib.figure import Figure

from hybrid_dense.report import curves
from hybrid_dense.report.curves import save_curves


def training(step, loss, epoch=None, **more):
    record = {
        "lr": 0.01 / step,
        "data_time": 0.1,
        "loss": loss,
        "loss_cls": loss / 2,
        "iter": step,
        "step": step,
        **more,
    }
    return record if epoch is None else {**record, "epoch": epoch}


EPOCHS = [training(s, 1 / s, epoch=(s - 1) // 20 + 1, memory=100) for s in range(5, 61, 5)]
AP = [
    {"coco/bbox_mAP": e / 10, "coco/bbox_mAP_50": e / 5, "coco/bbox_mAP_s": -1.0, "time": 1, "step": e}
    for e in (1, 2, 3)
]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw records (or text) and return {axes title: axes}, the picture having been written."""
    figures = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    def run(content):
        monkeypatch.setattr(curves, "Figure", Kept)
        if not isinstance(content, str):
            content = "\n".join(json.dumps(record) for record in content)
        (tmp_path / "scalars.json").write_text(content)
        path = save_curves(tmp_path / "scalars.json", tmp_path / "out" / "curves.png")
        assert pictures.imread(path)[..., :3].std() > 0.01
        return {ax.get_title(): ax for ax in figures[-1].axes}

    return run


def line(ax, label):
    (found,) = [curve for curve in ax.lines if curve.get_label().split("  ")[0] == label]
    return found


def test_epoch_training_puts_losses_metrics_and_rate_on_one_epoch_axis(draw):
    axes = draw([*EPOCHS[:4], AP[0], *EPOCHS[4:8], AP[1], *EPOCHS[8:], AP[2]])
    assert list(axes) == ["loss", "AP", "learning rate"]
    assert {ax.get_xlabel() for ax in axes.values()} == {"epoch"}
    assert len({ax.get_xlim() for ax in axes.values()}) == 1
    assert np.allclose(line(axes["loss"], "loss").get_xdata(), np.arange(5, 61, 5) / 20)
    ap = line(axes["AP"], "coco/bbox_mAP")
    assert list(ap.get_xdata()) == [1, 2, 3] and np.allclose(ap.get_ydata(), [0.1, 0.2, 0.3])
    assert np.allclose(axes["learning rate"].lines[0].get_ydata(), [0.01 / s for s in range(5, 61, 5)])
    shown = {t.get_text().split("  ")[0] for t in axes["AP"].get_legend().get_texts()}
    assert shown == {"coco/bbox_mAP", "coco/bbox_mAP_50"}  # -1 means "no such objects" and is no value


def test_iteration_training_counts_iterations_and_iou_has_its_own_axes(draw):
    records = [training(s, 1.0, **{"decode.loss_ce": 0.5}) for s in (10, 20)]
    axes = draw([*records, {"aAcc": 80.0, "mIoU": 55.0, "mAcc": 60.0, "step": 20}])
    assert list(axes) == ["loss", "IoU", "learning rate"]
    assert axes["IoU"].get_xlabel() == "iteration"
    assert list(line(axes["IoU"], "mIoU").get_xdata()) == [20]
    assert list(line(axes["loss"], "decode.loss_ce").get_xdata()) == [10, 20]


def test_each_loss_is_drawn_raw_and_smoothed(draw):
    noise = np.random.default_rng(0).normal(0, 0.2, 400)
    axes = draw([training(s, 2 + float(noise[s - 1])) for s in range(1, 401)])
    raw, smooth = (np.asarray(c.get_ydata()) for c in axes["loss"].lines[:2])
    assert np.allclose(raw, 2 + noise)
    assert smooth.std() < 0.4 * raw.std() and abs(smooth.mean() - 2) < 0.05


def test_smoothing_does_not_lag_behind():
    slope = np.linspace(5, 1, 200)
    assert np.allclose(curves._smooth(slope), slope)
    assert curves._smooth(np.array([3.0])) == [3.0]


def test_a_loss_that_is_not_finite_leaves_a_gap(draw):
    axes = draw([training(s, float("nan") if s == 3 else 1.0) for s in range(1, 6)])
    assert len(line(axes["loss"], "loss").get_xdata()) == 4


def test_a_log_of_metrics_alone_is_enough(draw):
    assert list(draw(AP)) == ["AP"]
    assert list(draw([{"coco/bbox_mAP": 0.3}])) == ["AP"]  # a test's record: no step


def test_a_last_line_cut_short_is_passed_over(draw):
    text = "\n".join(json.dumps(r) for r in EPOCHS[:3]) + '\n{"lr": 0.0'
    assert len(line(draw(text)["loss"], "loss").get_xdata()) == 3


def test_bad_logs_are_named(draw, tmp_path):
    with pytest.raises(FileNotFoundError, match="no scalars file .*nowhere.json"):
        save_curves(tmp_path / "nowhere.json", tmp_path / "c.png")
    with pytest.raises(ValueError, match="is empty"):
        draw("\n")
    with pytest.raises(ValueError, match="line 1 is no JSON object: 'hello'"):
        draw('hello\n{"loss": 1, "step": 1}')
    with pytest.raises(ValueError, match="holds no loss"):
        draw([{"time": 1.0, "step": 1}])
    assert not (tmp_path / "c.png").exists()
