"""What `hybrid-dense robustness` refuses before it evaluates anything."""

import json
from pathlib import Path

import pytest

from hybrid_dense.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"of this model")
    return path


def test_figures_of_another_checkpoint_are_not_taken_for_this_ones(weights, tmp_path, capsys):
    of = dict(checkpoint="another", metric="mIoU", split="test", options=[])
    (tmp_path / "robustness.json").write_text(json.dumps(dict(of=of, clean=0.7, corruptions={"noise": [0.1] * 5})))
    words = [str(CONFIGS / "demo_semantic.py"), str(weights), "--work-dir", str(tmp_path), "--corruptions", "noise"]
    assert main(["robustness", *words]) == 2
    assert "holds figures of another checkpoint, metric, split or option" in capsys.readouterr().err


def test_boxes_cannot_be_shifted(weights, tmp_path, capsys):
    words = [str(CONFIGS / "demo.py"), str(weights), "--work-dir", str(tmp_path), "--corruptions", "noise", "shift"]
    assert main(["robustness", *words, "--metric", "bbox_mAP"]) == 2
    assert "leave it out for a detector" in capsys.readouterr().err
