"""A config that is data runs nothing: not when it is read, not through its bases, not through what it names."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS

from hybrid_dense.cli import main
from hybrid_dense.config_data import check
from hybrid_dense.config_file import read_config
from hybrid_dense.inference import Predictor


@pytest.fixture(autouse=True)
def errors_in_full(monkeypatch):
    """Commands raise what they would print."""
    monkeypatch.setenv("HYBRID_DENSE_TRACEBACK", "1")


# Every way in that reads a config.
WAYS = {
    "train": lambda kit, config: main(["train", config]),
    "test": lambda kit, config: main(["test", config, "none.pth"]),
    "predict": lambda kit, config: main(["predict", config, "none.pth", str(kit.image), "--out", "found"]),
    "describe": lambda kit, config: main(["describe", config]),
    "weights export": lambda kit, config: main(["weights", "export", "none.pth", "--config", config, "-o", "a.x"]),
    "Predictor": lambda kit, config: Predictor(config, device="cpu"),
}


def write(kit, text: str, name: str = "hostile.yaml") -> str:
    """The small config with this text, a line of YAML, behind it."""
    Path(name).write_text(f"{kit.config.read_text()}\n{text}\n")
    return name


@pytest.mark.parametrize("way", WAYS)
def test_tags_of_python_are_refused(kit, way):
    config = write(kit, f"x: !!python/object/apply:os.mkdir [{kit.harmed}]")
    with pytest.raises(ValueError, match=r"hostile\.yaml cannot be read: .*python/object/apply:os.mkdir"):
        WAYS[way](kit, config)
    assert not kit.harmed.exists()
    with suppress(FileExistsError):  # it reads the file twice
        Config.fromfile(config)
    assert kit.harmed.exists()


@pytest.mark.parametrize("way", WAYS)
def test_bases_in_python_are_refused(kit, way):
    Path("base.py").write_text(kit.python)
    config = write(kit, "_base_: base.py")
    with pytest.raises(ValueError, match=r"_base_ 'base\.py' would run Python, .* configs --dump base\.py base\.yaml"):
        WAYS[way](kit, config)
    assert not kit.harmed.exists()
    Config.fromfile(config)
    assert kit.harmed.exists()


@pytest.mark.parametrize("way", WAYS)
def test_imports_of_strangers_are_refused(kit, way, monkeypatch):
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    Path("evil_module.py").write_text(kit.python)
    config = write(kit, "custom_imports: {imports: [hybrid_dense, evil_module]}")
    with pytest.raises(ValueError, match="custom_imports of 'evil_module' would run that module"):
        WAYS[way](kit, config)
    assert not kit.harmed.exists()
    Config.fromfile(config)
    assert kit.harmed.exists()


def test_a_type_that_is_a_function_of_python_is_refused(kit):
    """mmengine looks for a type among all of Python's modules, and calls it."""
    hostile = dict(type="os.mkdir", path=str(kit.harmed))
    for place in (
        dict(model=hostile),
        dict(custom_hooks=[hostile]),
        dict(model=dict(type="EncoderDecoder", decode_head=dict(loss_decode=[hostile]))),
        dict(train_dataloader=dict(dataset=dict(pipeline=(hostile,)))),
    ):
        with pytest.raises(ValueError, match=r"type='os\.mkdir' names no registered part"):
            check(place, "config")
        Path("hostile.yaml").write_text(yaml.dump(place))
        with pytest.raises((ValueError, yaml.YAMLError)):
            read_config("hostile.yaml")
    assert not kit.harmed.exists()
    MODELS.build(dict(hostile))
    assert kit.harmed.exists()


def test_a_type_that_is_a_module_is_refused(kit, monkeypatch):
    """Registries import what they do not know."""
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "plain_word", raising=False)
    Path("plain_word.py").write_text(kit.python)
    with pytest.raises(ValueError, match="'plain_word' names no registered part"):
        check(dict(model=dict(type="plain_word")), "config")
    assert not kit.harmed.exists()
    TRANSFORMS.get("plain_word")
    assert kit.harmed.exists()


@pytest.mark.parametrize(
    "content",
    [
        dict(type="mmengine.load", file="x.json"),
        dict(type="mmengine.fileio.load"),
        dict(type="torch.hub.load", repo_or_dir="evil/repository"),
        dict(type="subprocess"),
        dict(type="__import__('os').system('x')"),
        dict(test_cfg=dict(nms=dict(type="print(1) or nms"))),  # mmcv evaluates the name of an nms
        dict(optim_wrapper=dict(constructor="os.system")),
        dict(type="FPN", _scope_="evil"),
        dict(default_scope="evil"),
        dict(type="RFSearchHook"),
        dict(type="RefCocoDataset", split_file="splits.txt"),
        dict(type="OpenImagesChallengeDataset", hierarchy_file="h.dat"),
        dict(type="LoadBiomedicalImageFromFile", decode_backend="pickle"),
        dict(type="TIMMBackbone", checkpoint_path="x.pth"),
        dict(warp_mode="os.system('x')"),
        dict(backend_args=dict(backend="memcached", sys_path="/tmp/evil")),
        dict(teacher_config="teacher.py"),
        dict(ann_file="x.pkl"),
        dict(ann_file="x.yaml"),
        dict(hierarchy_file=["x.np"]),
    ],
    ids=str,
)
def test_what_leads_to_code_is_refused(content):
    with pytest.raises(ValueError, match=r"^c: (model\.)?[\w.]+=.*(this config is data|is none of mmdet, mmseg)"):
        check(content, "c")
    with pytest.raises(ValueError):
        check(dict(model=[content]), "c")


@pytest.mark.parametrize(
    "content",
    [
        dict(type="FPN"),
        dict(type="mmdet.FPN"),
        dict(type="nms"),
        dict(type="mmengine.SGD", constructor="DefaultOptimWrapperConstructor", _scope_="mmdet"),
        dict(custom_imports=dict(imports="hybrid_dense", allow_failed_imports=False)),
        dict(custom_imports=dict(imports=["hybrid_dense.necks", "mmdet.models"])),
        dict(warp_mode="cv2.MOTION_EUCLIDEAN", ann_file="annotations/a.json"),
        dict(type="LoadBiomedicalImageFromFile", decode_backend="nifti"),
        dict(type=1, note="what.ever"),
    ],
    ids=str,
)
def test_what_names_registered_parts_is_taken(content):
    check(content, "c")


def test_placeholders_bring_in_nothing(kit, monkeypatch):
    Path("a.yaml").write_text("here: '{{ fileDirname }}/{{fileBasenameNoExtension}}'")
    assert read_config("a.yaml").here == f"{os.getcwd()}/a"
    monkeypatch.setenv("SECRET", "word")
    for text in ("{{$SECRET:none}}", "{{ _base_.model }}"):
        Path("a.yaml").write_text(f"x: '{text}'")
        with pytest.raises(ValueError, match="is filled in Python configs only; here there are fileDirname"):
            read_config("a.yaml")
