"""The studies under configs/results: fair between their models, and every config trains and is tested."""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from zoo_data import write_coco_of_scenes

from hybrid_dense.study.plan import read_plan

RESULTS = Path(__file__).parents[2] / "configs/results"
LEAVES = sorted(path for path in RESULTS.rglob("*.py") if "_base_" not in path.parts)
STUDIES = sorted(RESULTS.glob("*.yaml"))
SMALL = (64, 96)
# Levels of a plain ViT's pyramid that the head of a task does not read.
UNREAD = {"bccd": "backbone.pyramid.levels.0.", "cifar10": "backbone.pyramid.levels."}
COMPARED = ("type", "variant", "fusion", "fusion_stages", "global_attention")
# The hybrids always, since they hold every kind of part; the others take a minute.
TRAINED = [pytest.param(path, marks=() if path.stem == "hybrid" else pytest.mark.slow) for path in LEAVES]
every_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def load(path: Path, work_dir: Path, options: Sequence[str] = ()) -> Config:
    from hybrid_dense.cli.session import load_config

    return load_config(Namespace(config=path, cfg_options=list(options), work_dir=work_dir, amp="fp32"))


def parameters(path: Path, work_dir: Path) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MODELS.build(load(path, work_dir).model).parameters())


@every_study
def test_the_models_of_a_study_have_equally_many_parameters(path, tmp_path):
    plan = read_plan(path)
    counts = {name: parameters(model["config"], tmp_path) for name, model in plan.models.items()}
    reference = counts[plan.reference]
    assert {
        name: round(count / reference, 2) for name, count in counts.items() if not 0.9 < count / reference < 1.1
    } == {}


@every_study
def test_the_models_of_a_study_differ_in_their_backbones_only(path):
    files = {model["config"] for model in read_plan(path).models.values()}
    configs = [Config.fromfile(file) for file in sorted(files)]
    rest = [config.to_dict() for config in configs]
    backbones = [content["model"].pop("backbone") for content in rest]
    assert all(content == rest[0] for content in rest)
    assert all(one != other for index, one in enumerate(backbones) for other in backbones[:index])
    shared = [{key: value for key, value in backbone.items() if key not in COMPARED} for backbone in backbones]
    assert all(options == shared[0] for options in shared)


@pytest.mark.parametrize("task", ["bccd", "camvid", "cifar10"])
def test_a_task_compares_a_hybrid_with_both_of_its_halves(task):
    plan = read_plan(RESULTS / f"{task}.yaml")
    models = {name: model["config"] for name, model in plan.models.items() if not model["options"]}
    kinds = {name: Config.fromfile(file).model.backbone.type for name, file in models.items()}
    assert plan.reference == "hybrid" and kinds.pop("hybrid").endswith("ResNeXtViT")
    assert {name: kinds[name] for name in ("cnn", "vit")} == dict(cnn="PlainResNeXt", vit="PlainViT")


@every_study
def test_a_longer_training_ends_at_rate_zero_too(path, tmp_path):
    for run in read_plan(path).runs():
        cfg = load(run.config, tmp_path, run.option_words())
        assert cfg.param_scheduler[-1].end == cfg.param_scheduler[-1].T_max == cfg.train_cfg.max_epochs


def test_every_config_belongs_to_a_study():
    named = {model["config"].resolve() for path in STUDIES for model in read_plan(path).models.values()}
    assert named == {path.resolve() for path in LEAVES}


def test_the_class_weights_are_those_of_the_training_labels(data_root):
    """(1 / log(1.1 + share of the pixels)) ** 0.5, of mean 1."""
    pixels = sum(
        np.bincount(cv2.imread(str(file), cv2.IMREAD_UNCHANGED).ravel(), minlength=12)[:11]
        for file in (data_root / "camvid/trainannot").glob("*.png")
    )
    weights = np.log(1.1 + pixels / pixels.sum()) ** -0.5
    stated = Config.fromfile(RESULTS / "camvid/hybrid.py").model.decode_head.loss_decode.class_weight
    np.testing.assert_allclose(stated, weights / weights.mean(), atol=0.005)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, scenes) -> Path:
    """The layouts that the configs read, with a few images drawn at random or, for COCO, scenes."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    write_camvid(root / "camvid", generator)
    write_bccd(root / "bccd", generator)
    write_cifar(root / "cifar10", generator)
    write_coco_of_scenes(root / "tiny_coco", scenes)
    return root


def write_camvid(root: Path, generator: np.random.Generator) -> None:
    for split in ("train", "val"):
        for folder, suffix, shape, most in ((split, ".webp", (*SMALL, 3), 256), (f"{split}annot", ".png", SMALL, 12)):
            (root / folder).mkdir(parents=True)
            for number in range(2):
                values = generator.integers(0, most, shape, np.uint8)
                cv2.imwrite(str(root / folder / f"{number}{suffix}"), values)


def write_bccd(root: Path, generator: np.random.Generator) -> None:
    """Two images a split with a cell of each kind; the first has a box of no size too, as BCCD has."""
    height, width = SMALL
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    boxes = {"RBC": (1, 1, 30, 30), "WBC": (40, 10, 90, 60), "Platelets": (5, 40, 20, 55)}
    for split in ("train", "val"):
        names = [f"{split}_{number}" for number in range(2)]
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for name in names:
            cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), generator.integers(0, 256, (*SMALL, 3), np.uint8))
            here = [*boxes.items(), *([("RBC", (50, 50, 50, 50))] if name == "train_0" else [])]
            (root / f"Annotations/{name}.xml").write_text(
                f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
                + "".join(voc_object(kind, box) for kind, box in here)
                + "</annotation>"
            )


def voc_object(name: str, box: tuple[int, ...]) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"


def write_cifar(root: Path, generator: np.random.Generator) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        rows = generator.integers(0, 256, (2, 3073), np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / name)


def test_models_that_leave_weights_idle_say_so():
    """Else DDP waits for their gradients, in the second step."""
    told = {path.parent.name for path in LEAVES if Config.fromfile(path).get("find_unused_parameters")}
    assert told == set(UNREAD)


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_takes_a_step_and_is_tested(path, folders, tmp_path, monkeypatch):
    from hybrid_dense.cli.session import build_runner
    from hybrid_dense.engine.equip import equip

    monkeypatch.setenv("HYBRID_DENSE_DATA", str(folders))
    cfg = equip(load(path, tmp_path))
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False, batch_size=2)
    shrink(cfg)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.experiment_name = cfg.visualizer.name = f"{path.parent.name}_{path.stem}"
    runner = build_runner(cfg, ("train", "val", "test"))
    reached = set()
    for name, parameter in runner.model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    runner.train()
    figures = runner.test()

    assert math.isfinite(runner.message_hub.get_scalar("train/loss").current())
    idle = UNREAD.get(path.parent.name, "nothing")
    trained = {name for name, _ in runner.model.named_parameters() if not name.startswith(idle)}
    assert reached == trained
    plans = [plan for plan in map(read_plan, STUDIES) if path in [model["config"] for model in plan.models.values()]]
    assert plans and all(math.isfinite(figures[name]) for plan in plans for name in (plan.metric, *plan.also))


def shrink(cfg: Config) -> None:
    """Images of 64×96 pixels; the classifier's begin at 32 and end at 64."""
    for split in ("train", "val", "test"):
        for step in cfg[f"{split}_dataloader"].dataset.get("pipeline", ()):
            sizes = dict(scale=SMALL[::-1], crop_size=SMALL, size=SMALL[::-1])
            step.update({key: value for key, value in sizes.items() if key in step})
    if "sizes" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.sizes = [32, 64]
