"""Configs are read from Python, YAML and JSON, and written as data that says the same."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

import hybrid_dense
from hybrid_dense.cli import main
from hybrid_dense.cli.session import register_host
from hybrid_dense.config_data import to_data
from hybrid_dense.config_file import read_config, read_text, write_config, write_text

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
@pytest.mark.parametrize("name", ["demo", "demo_semantic", "mask_rcnn_rx50_vit"])
def test_a_config_written_as_data_says_the_same(tmp_path, name, suffix):
    cfg = read_config(CONFIGS / f"{name}.py")
    write_config(cfg, tmp_path / f"config{suffix}")
    again = read_config(tmp_path / f"config{suffix}")
    assert again.to_dict() == cfg.to_dict()  # tuples too
    assert again.filename == str(tmp_path / f"config{suffix}")


def test_the_command_writes_it(tmp_path, capsys):
    assert main(["configs", "--dump", str(CONFIGS / "demo.py"), str(tmp_path / "demo.yaml")]) == 0
    assert read_config(tmp_path / "demo.yaml").model.type == read_config(CONFIGS / "demo.py").model.type
    assert "written as data" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_tuples_and_small_numbers_survive(suffix):
    content = dict(a=(1, 2), b=[(3,), dict(c=())], d=1e-4, e=True, f=None, g="Ä")
    assert read_text(write_text(content, suffix), suffix) == content


def test_a_learning_rate_is_a_number_in_yaml():
    assert read_text("[1e-4, 2E5, 1.5e-3, -1e+2, 12e, e5]", ".yaml") == [1e-4, 2e5, 1.5e-3, -100.0, "12e", "e5"]


def test_bases_are_merged_as_in_python(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/model.yaml").write_text("model: {type: A, neck: {type: B, width: 1}, head: {type: C, x: 1}}")
    (tmp_path / "parts/data.json").write_text('{"data": {"size": {"_tuple_": [1, 2]}}}')
    (tmp_path / "leaf.yaml").write_text(
        "_base_: [parts/model.yaml, parts/data.json]\nmodel: {neck: {width: 2}, head: {_delete_: true, type: D}}"
    )
    (tmp_path / "leaf.py").write_text(
        "_base_ = ['parts/model.yaml']\n"
        "data = dict(size=(1, 2))\nmodel = dict(neck=dict(width=2), head=dict(_delete_=True, type='D'))"
    )
    cfg = read_config(tmp_path / "leaf.yaml")
    assert cfg.to_dict() == read_config(tmp_path / "leaf.py").to_dict()
    assert cfg.model.neck == dict(type="B", width=2) and cfg.model.head == dict(type="D") and cfg.data.size == (1, 2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.yaml": "_base_: a.yaml"}, r"a\.yaml is a _base_ of itself"),
        ({"a.yaml": "_base_: [b.yaml, c.yaml]", "b.yaml": "x: 1", "c.yaml": "x: 2"}, "more than one _base_ sets x"),
        ({"a.yaml": "_base_: b.yaml"}, r"no such _base_: .*b\.yaml"),
        ({"a.yaml": "_base_: 3"}, "_base_ 3 is no file name"),
        ({"a.yaml": "_base_: mmdet::faster.py"}, "would run Python"),
        ({"a.yaml": "_base_: b.yaml\nx: {y: 1}", "b.yaml": "x: 2"}, "does not fit its _base_"),
        ({"a.yaml": "- 1"}, "is no config: it holds no names"),
        ({"a.yaml": "x: ["}, r"a\.yaml cannot be read"),
        ({"a.yaml": "x: &x [*x]"}, "refers to itself"),
        ({}, "no such config"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_other_files_are_no_configs(tmp_path):
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(ValueError, match=r"a\.toml is no config: one ends in \.py, \.yaml, \.yml, \.json"):
        read_config(tmp_path / "a.toml")
    with pytest.raises(ValueError, match=r"ends in \.yaml, \.yml, \.json, not \.py"):
        write_config(Config(), tmp_path / "a.py")


def test_what_is_no_data_is_named():
    with pytest.raises(ValueError, match=r"config\.hooks\.0\.act is a builtin_function_or_method .*cannot be written"):
        to_data(dict(hooks=[dict(act=len)]))
    with pytest.raises(ValueError, match="JSON has no key like 3"):
        write_text({3: 4}, ".json")


def test_configs_with_imports_are_written_by_registered_names(tmp_path):
    pytest.importorskip("mmdet")
    hybrid_dense.register_all_modules()
    (tmp_path / "lazy.py").write_text(
        "from mmdet.models.necks.fpn import FPN\nfrom torch.optim import SGD\n"
        "default_scope = 'mmdet'\nneck = dict(type=FPN)\noptimizer = dict(type=SGD)\n"
    )
    cfg = read_config(tmp_path / "lazy.py")
    register_host(cfg)
    data = to_data(cfg)
    assert data["neck"] == dict(type="FPN") and data["optimizer"] == dict(type="SGD")
    assert json.loads(write_text(data, ".json"))["neck"] == dict(type="FPN")
