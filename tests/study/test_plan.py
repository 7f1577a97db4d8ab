"""The YAML file of a study: what it means, and every common mistake in it in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybrid_dense.cli.study import train_command
from hybrid_dense.study.plan import read_plan

GOOD = dict(
    task="toy",
    metric="mIoU",
    seeds=[0, 1],
    models=dict(hybrid="hybrid.py", cnn=dict(config="hybrid.py", options={"model.depth": 2, "sizes": [1, [2, 3]]})),
)


@pytest.fixture
def write(tmp_path):
    """Write a study and its config; returns the study's file."""
    (tmp_path / "hybrid.py").write_text("model = dict(depth=1)\nsizes = []\ntrain_cfg = dict(max_epochs=3)\n")

    def call(**changes) -> Path:
        content = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / "toy.yaml"

    return call


def test_runs_go_seed_by_seed_and_carry_their_options(write):
    plan = read_plan(write())
    assert (plan.reference, plan.splits, plan.checkpoint, plan.scale) == ("hybrid", ("val",), "final", 1.0)
    assert [run.name for run in plan.runs()] == ["hybrid seed 0", "cnn seed 0", "hybrid seed 1", "cnn seed 1"]
    (run,) = plan.runs(["cnn"], [7], {"data_root": "x"})
    assert run.seed == 7
    assert run.option_words() == ["model.depth=2", "sizes=[1,[2,3]]", "data_root=x"]
    assert run.folder(Path("results")) == Path("results/toy/cnn/seed7")
    assert run.read_config().model.depth == 2


def test_a_model_may_have_fewer_seeds(write):
    plan = read_plan(write(models=dict(hybrid="hybrid.py", cnn=dict(config="hybrid.py", seeds=[1]))))
    assert [run.name for run in plan.runs()] == ["hybrid seed 0", "hybrid seed 1", "cnn seed 1"]
    assert [run.name for run in plan.runs(seeds=[0])] == ["hybrid seed 0", "cnn seed 0"]


def test_each_training_runs_in_as_many_processes_as_the_file_says(write, tmp_path):
    alone, two = (read_plan(write(**changes)).runs(["cnn"])[0] for changes in ({}, {"processes": 2}))
    assert alone.fingerprint() != two.fingerprint()  # BatchNorm sees half of the images
    train = train_command(alone, tmp_path)
    assert train[:4] == [sys.executable, "-m", "hybrid_dense", "train"]
    python, launcher, count, *rest = train_command(two, tmp_path)
    assert rest == [*train, "--launcher", "pytorch"]
    tell = "import os; print(os.environ['RANK'] + ' of ' + os.environ['WORLD_SIZE'])"
    said = subprocess.run([python, launcher, count, sys.executable, "-c", tell], capture_output=True, text=True)
    assert sorted(said.stdout.splitlines()) == ["0 of 2", "1 of 2"]


def test_fingerprint_is_of_what_decides_a_result(write, tmp_path):
    def fingerprint(text):
        (tmp_path / "hybrid.py").write_text(text)
        return plan.runs(["hybrid"])[0].fingerprint()

    plan = read_plan(write())
    base = (
        "model = dict(depth=1)\ndata_root = '/a/toy/'\ntrain_dataloader = dict(num_workers=1, root=data_root + 'x')\n"
    )
    first = fingerprint(base)
    assert fingerprint(base.replace("/a/toy/", "data/toy/")) == first
    assert fingerprint(base.replace("num_workers=1", "num_workers=8") + "log_level = 'INFO'\n") == first
    assert fingerprint(base.replace("depth=1", "depth=2")) != first
    assert fingerprint(base.replace("'x'", "'y'")) != first
    for more in (
        "sync_bn = 'torch'",
        "auto_scale_lr = dict(enable=True)",
        "val_cfg = dict(fp16=True)",
        "default_hooks = dict(checkpoint=dict(save_best='mIoU'))",
    ):
        assert fingerprint(f"{base}{more}\n") != first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(metrics="mIoU"), "unknown key 'metrics'; the nearest known is 'metric'"),
        (dict(path="x"), "unknown key 'path'"),
        (dict(metric=...), "lacks metric"),
        (dict(task="../toy"), "task is the name of a folder, not '../toy'"),
        (dict(seeds=3), "seeds is a list"),
        (dict(seeds=[1, 1]), "seeds is a list of different"),
        (dict(seeds=[True]), "seeds is a list"),
        (dict(splits=["train"]), "splits is a list of"),
        (dict(checkpoint="last"), "checkpoint is one of ('final', 'best'), not 'last'"),
        (dict(percent="yes"), "percent is true or false"),
        (dict(minutes=0), "minutes is a number above 0"),
        (dict(also="mAcc"), "also is a list of names of figures, not 'mAcc'"),
        (dict(processes=0), "processes is a whole number from 1 up"),
        (dict(models={}), "models is names"),
        (dict(models={"a/b": "hybrid.py"}), "models is names"),
        (dict(models=dict(cnn=dict(file="hybrid.py"))), "model cnn is a config file"),
        (dict(models=dict(cnn=dict(config="hybrid.py", seed=1))), "model cnn: unknown key 'seed'"),
        (dict(models=dict(cnn=dict(config="hybrid.py", seeds=[2]))), "model cnn are some of [0, 1], not [2]"),
        (dict(models=dict(cnn="cnn.py")), "the config of model cnn is not there"),
        (dict(reference="vit"), "reference 'vit' is none of the models hybrid, cnn"),
    ],
)
def test_a_mistake_is_named_in_one_line(write, changes, said):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_plan(write(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_study_is_named(tmp_path, write):
    write()
    with pytest.raises(FileNotFoundError, match=r"no such study: .*other.yaml; there are .*toy.yaml"):
        read_plan(tmp_path / "other.yaml")
    (tmp_path / "bad.yaml").write_text("task: [")
    with pytest.raises(ValueError, match="cannot be read"):
        read_plan(tmp_path / "bad.yaml")
    (tmp_path / "code.yaml").write_text("task: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="cannot be read"):
        read_plan(tmp_path / "code.yaml")
    with pytest.raises(ValueError, match="no model 'vit'; there are hybrid, cnn"):
        read_plan(write()).runs(["vit"])


def test_an_option_is_a_value_and_no_dict(write):
    models = dict(hybrid=dict(config="hybrid.py", options={"model.backbone": {"type": "PlainViT"}}))
    with pytest.raises(ValueError, match="option model.backbone of model hybrid is a dict; give each value by its"):
        read_plan(write(models=models))
