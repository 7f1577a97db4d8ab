"""The table of the shipped models says what their cards say."""

import json

import pytest

from hybrid_dense import model_zoo
from hybrid_dense.report.shipped_models import shipped_table

CARD = dict(
    config=dict(default_scope="mmseg"),
    classes=["road", "sky"],
    parameters=4_321_000,
    score=dict(name="mIoU", split="val", value=0.61234),
    training=dict(minutes=41.26, command="hybrid-dense study a.yaml --only hybrid --seeds 0"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "FOLDER", tmp_path)
    return tmp_path


def test_a_row_a_model(folder):
    for name, scope in (("roads", "mmseg"), ("cells", "mmdet")):
        (folder / f"{name}.safetensors").write_bytes(bytes(3 * 2**19))
        (folder / f"{name}.json").write_text(json.dumps(CARD | dict(config=dict(default_scope=scope))))
    header, _, cells, roads = shipped_table().splitlines()
    command = "`hybrid-dense study a.yaml --only hybrid --seeds 0`"
    assert header == "| name | task | classes | parameters (M) | MiB | measured | minutes | trained by |"
    assert cells == f"| `cells` | detection | 2 | 4.32 | 1.5 | val mIoU 0.6123 | 41.3 | {command} |"
    assert roads == f"| `roads` | semantic segmentation | 2 | 4.32 | 1.5 | val mIoU 0.6123 | 41.3 | {command} |"


def test_without_models_it_says_so():
    assert shipped_table() == "No trained model is shipped yet."
