"""`new-config` on real data (BCCD, tiny_coco, CamVid) or, without it, on drawn scenes: written, trained, tested."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from hybrid_dense.cli import main
from hybrid_dense.cli.new_config import CONFIGS, training_command
from hybrid_dense.data.formats.coco import read_coco
from hybrid_dense.data.formats.model import Losses
from hybrid_dense.data.formats.voc_writer import write_voc

NANO = ("--variant", "rxnano_vit_pico")
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SCENES = ["background", "disk", "square", "triangle", "star", "ring", "cross"]
TRAIN_AND_TEST = """
import sys
from hybrid_dense.cli import main
for config in sys.argv[1:]:
    folder = config.removesuffix(".py")
    if (main(["train", config, "--epochs", "1", "--work-dir", folder])
            or main(["test", config, f"{folder}/epoch_1.pth", "--work-dir", folder])):
        sys.exit(f"{config} failed")
"""


def train_and_test(*configs: Path) -> list[dict]:
    """One epoch and one evaluation with each config as it is, all in one process; returns their metrics."""
    command = [sys.executable, "-c", TRAIN_AND_TEST, *map(str, configs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=configs[0].parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((config.with_suffix("") / "metrics.json").read_text()) for config in configs]


def write_config(*arguments) -> Config:
    """Run the command and read what it wrote; a config has few lines."""
    assert main(["new-config", *map(str, arguments)]) == 0
    path = Path(arguments[arguments.index("--output") + 1])
    lines = path.read_text().splitlines()
    cfg = Config.fromfile(path)
    names = len(cfg.classes)
    assert len(lines) <= (55 if "--pretrained" in arguments else 40) or names > 20
    return cfg


def subset(names: list[str], source: Path, target: Path, suffix: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / f"{name}{suffix}").symlink_to(source / f"{name}{suffix}")


@pytest.fixture
def some_data() -> Path | None:
    """The folder of real data, if there is one."""
    return Path(os.environ["HYBRID_DENSE_DATA"]) if os.environ.get("HYBRID_DENSE_DATA") else None


@pytest.fixture
def scenes_voc(scenes, tmp_path) -> Path:
    losses = Losses()
    write_voc(read_coco(scenes, losses), tmp_path / "voc", losses)
    return tmp_path / "voc"


def write_boxes_of_voc(some_data: Path | None, scenes_voc: Path, folder: Path) -> Path:
    """The config of boxes in VOC's layout, of BCCD if it is there."""
    source = scenes_voc
    if some_data:
        source = folder / "bccd"
        lists = {
            split: (some_data / f"bccd/ImageSets/Main/{split}.txt").read_text().split() for split in ("train", "val")
        }
        lists = {split: names[:2] for split, names in lists.items()}
        (source / "ImageSets/Main").mkdir(parents=True)
        for split, names in lists.items():
            (source / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
            subset(names, some_data / "bccd/JPEGImages", source / "JPEGImages", ".jpg")
            subset(names, some_data / "bccd/Annotations", source / "Annotations", ".xml")
    cfg = write_config("--voc", source, *NANO, "--output", folder / "boxes.py")
    assert set(cfg.classes) == ({"Platelets", "RBC", "WBC"} if some_data else set(SCENES[1:]))
    assert cfg.model.roi_head.bbox_head.num_classes == len(cfg.classes)
    return folder / "boxes.py"


def write_masks_of_coco(some_data: Path | None, scenes: Path, folder: Path) -> Path:
    """The config of masks in COCO's layout, of tiny_coco if it is there."""
    files = {s: (scenes / f"annotations/instances_{s}.json", scenes / s) for s in ("train", "val")}
    if some_data:
        coco = some_data / "tiny_coco"
        files = {}
        for split in ("train", "val"):
            content = json.loads((coco / f"annotations/instances_{split}2017.json").read_text())
            content["images"] = content["images"][:2]
            ids = {image["id"] for image in content["images"]}
            content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
            file = folder / f"{split}_part.json"
            file.write_text(json.dumps(content))
            files[split] = (file, coco / f"{split}2017")
    cfg = write_config("--coco", *files["train"], "--val", *files["val"], *NANO, "--output", folder / "instances.py")
    assert cfg.model.type == "MaskRCNN"
    assert cfg.model.roi_head.mask_head.num_classes == len(cfg.classes) == (80 if some_data else 6)
    assert cfg.train_dataloader.dataset.ann_file == str(files["train"][0])  # used as it is
    return folder / "instances.py"


def write_label_maps(some_data: Path | None, scenes: Path, folder: Path) -> Path:
    """The config of label maps, of CamVid if it is there."""
    folders, classes = {s: (scenes / s, scenes / f"{s}_labels") for s in ("train", "val")}, SCENES
    if some_data:
        classes, folders = CAMVID, {}
        for split in ("train", "val"):
            names = sorted(path.stem for path in (some_data / "camvid" / split).iterdir())[:2]
            folders[split] = (folder / "camvid" / split, folder / "camvid" / f"{split}annot")
            subset(names, some_data / "camvid" / split, folders[split][0], ".webp")
            subset(names, some_data / "camvid" / f"{split}annot", folders[split][1], ".png")
    arguments = ["--masks", *folders["train"], "--val", *folders["val"], "--classes", *classes, *NANO]
    cfg = write_config(*arguments, "--output", folder / "maps.py")
    assert cfg.classes == tuple(classes) and cfg.model.decode_head.num_classes == len(classes)
    # CamVid's void is 11, which a model of 11 classes would trip over: its label maps are written anew.
    assert (folder / "maps_masks").is_dir() == bool(some_data)
    return folder / "maps.py"


def test_boxes_masks_and_label_maps_train_and_test_with_nothing_edited(some_data, scenes, scenes_voc, tmp_path):
    boxes, instances, maps = train_and_test(
        write_boxes_of_voc(some_data, scenes_voc, tmp_path),
        write_masks_of_coco(some_data, scenes, tmp_path),
        write_label_maps(some_data, scenes, tmp_path),
    )
    assert "coco/bbox_mAP" in boxes and "coco/segm_mAP" not in boxes
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(instances)
    assert 0 <= maps["mIoU"] <= 100


def test_without_val_the_same_fifth_is_held_out(scenes, tmp_path):
    source = ("--coco", scenes / "annotations/instances_train.json", scenes / "train")
    held_out = []
    for name in ("one", "two"):
        cfg = write_config(*source, *NANO, "--output", tmp_path / f"{name}.py")
        names = {
            split: {
                image["file_name"] for image in json.loads((tmp_path / f"{name}_{split}.json").read_text())["images"]
            }
            for split in ("train", "val")
        }
        assert len(names["train"] | names["val"]) == 8 and not names["train"] & names["val"]
        held_out.append(names["val"])
        assert cfg.val_evaluator.ann_file == str(tmp_path / f"{name}_val.json")
    assert held_out[0] == held_out[1] and len(held_out[0]) == 2


def test_rate_and_batch_follow_the_gpus(scenes, tmp_path):
    source = ("--coco", scenes / "annotations/instances_train.json", scenes / "train")
    one = write_config(*source, "--output", tmp_path / "one.py")
    two = write_config(*source, "--gpus", 2, "--output", tmp_path / "two.py")
    assert one.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * 2 / 16)
    assert two.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * 4 / 16)
    # The host scales the rate by the real batch over this one: as planned, by 1.
    assert (one.auto_scale_lr.base_batch_size, two.auto_scale_lr.base_batch_size) == (2, 4)
    assert "linear rule" in (tmp_path / "one.py").read_text()


def test_tasks_of_voc(scenes_voc, tmp_path):
    semantic = write_config("--voc", scenes_voc, "--task", "semantic", "--output", tmp_path / "semantic.py")
    assert semantic.classes[0] == "background" and set(semantic.classes) == set(SCENES)
    assert semantic.train_dataloader.dataset.data_prefix.seg_map_path == f"{scenes_voc}/SegmentationClass/"
    instance = write_config("--voc", scenes_voc, "--task", "instance", "--output", tmp_path / "instance.py")
    assert instance.model.type == "MaskRCNN"
    content = json.loads((tmp_path / "instance_train.json").read_text())
    assert content["annotations"] and all(one["segmentation"] for one in content["annotations"])


def test_voc_without_lists_is_split(scenes_voc, tmp_path):
    shutil.rmtree(scenes_voc / "ImageSets")
    write_config("--voc", scenes_voc, "--output", tmp_path / "all.py")
    counts = [len(json.loads((tmp_path / f"all_{split}.json").read_text())["images"]) for split in ("train", "val")]
    assert counts == [10, 2]


def test_images_of_several_kinds_and_a_names_file(scenes, tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    for position, path in enumerate(sorted((scenes / "train").iterdir())[:4]):
        with Image.open(path) as image:
            image.save(images / f"{path.stem}.{('png', 'jpg')[position % 2]}")
        (masks / f"{path.stem}.png").symlink_to(scenes / "train_labels" / f"{path.stem}.png")
    (tmp_path / "names.txt").write_text("\n".join(SCENES))
    arguments = ("--masks", images, masks, "--classes", tmp_path / "names.txt", "--output", tmp_path / "mixed.py")
    cfg = write_config(*arguments)
    assert cfg.classes == tuple(SCENES)
    dataset = cfg.train_dataloader.dataset
    for name in (tmp_path / "mixed_train.txt").read_text().split():
        assert Path(dataset.data_prefix.img_path, name + dataset.img_suffix).is_file()
        assert Path(dataset.data_prefix.seg_map_path, name + dataset.seg_map_suffix).is_file()


def test_pretrained_starts_and_trains_as_the_pretrained_flagship(scenes, tmp_path):
    data = ["--coco", scenes / "annotations/instances_train.json", scenes / "train"]
    cfg = write_config(*data, "--pretrained", "--output", tmp_path / "from_weights.py")
    flagship = Config.fromfile(CONFIGS / "mask_rcnn_rx50_vit_pretrained.py")
    for name in ("frozen_stages", "norm_eval", "init_cfg", "variant"):
        assert cfg.model.backbone[name] == flagship.model.backbone[name]
    for name in ("constructor", "paramwise_cfg"):
        assert cfg.optim_wrapper[name] == flagship.optim_wrapper[name]


def test_base_files_are_relative_inside_the_project_only(tmp_path):
    from hybrid_dense.data.planning.text import written_from

    file = tmp_path / "project/configs/_base_/models/a.py"
    assert written_from([file], tmp_path / "project/mine/x.py", tmp_path / "project") == [
        "../configs/_base_/models/a.py"
    ]
    assert written_from([file], tmp_path / "elsewhere/x.py", tmp_path / "project") == [str(file)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masks", "{scenes}/train", "{scenes}/train_labels"], "--masks needs --classes"),
        (
            ["--masks", "{scenes}/train", "{scenes}/none", "--classes", "a", "--task", "detect"],
            "convert-data",
        ),
        (["--masks", "{scenes}/train", "{scenes}/none", "--classes", "a", "b"], "no folder"),
        (["--masks", "{scenes}/train", "{scenes}/train", "--classes", "a", "b"], "holds colours"),
        (["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/none"], "no such folder"),
        (["--coco", "{scenes}/scenes.json", "{scenes}/train"], "not a COCO annotation file"),
        (
            ["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--task", "semantic"],
            "convert-data",
        ),
        (["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--classes", "a"], "own names"),
        (["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--variant", "rx5"], "did you mean"),
        (["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--gpus", "0"], "1 is the least"),
        (
            ["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--pretrained", *NANO],
            "no usual weights for rxnano of rxnano_vit_pico; there are some for r18,",
        ),
        (["--voc", "{scenes}"], "not in VOC's layout"),
        (["--masks", "{scenes}/train", "{scenes}/train_labels", "--classes", "fg"], "--classes background fg"),
        (["--coco", "{scenes}/train", "{scenes}/annotations/instances_train.json"], "(JSON) comes first"),
        (
            ["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train_labels"],
            "none of the 8 images of {scenes}/annotations/instances_train.json is in {scenes}/train_labels (first: ",
        ),
        (
            [
                *("--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train"),
                *("--val", "{scenes}/annotations/instances_val.json", "{scenes}/train_labels"),
            ],
            "none of the 4 images of {scenes}/annotations/instances_val.json is in {scenes}/train_labels (first: ",
        ),
        (
            ["--coco", "{scenes}/annotations/instances_train.json", "{scenes}/train", "--gpus", "1000"],
            "1000 GPUs are more than the 6 images to train on; --gpus 6 is the most",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_a_user_can_mend_is_one_line(scenes, tmp_path, capsys, arguments, message):
    arguments = [argument.format(scenes=scenes) for argument in arguments]
    assert main(["new-config", *arguments, "--output", str(tmp_path / "new/folder/x.py")]) == 2
    error = capsys.readouterr().err
    assert message.format(scenes=scenes) in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_fault_in_the_middle_leaves_nothing_of_ours(scenes, tmp_path, monkeypatch):
    def fail(*arguments):
        assert (tmp_path / "x_train.json").is_file()
        raise KeyboardInterrupt

    (tmp_path / "x_notes.json").write_text("mine")
    monkeypatch.setattr("hybrid_dense.data.planning.text.compose", fail)
    source = ["--coco", str(scenes / "annotations/instances_train.json"), str(scenes / "train")]
    assert main(["new-config", *source, "--output", str(tmp_path / "x.py")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["x_notes.json"]


def label_maps(folder: Path, *values: int) -> list[str]:
    """Four images and their label maps, each of the values on a quarter or so; returns the arguments."""
    row = np.repeat(np.array(values, np.uint8), 8)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(4):
        Image.new("RGB", (len(row), 4)).save(folder / f"images/{i}.png")
        Image.fromarray(np.tile(row, (4, 1))).save(folder / f"masks/{i}.png")
    return ["--masks", str(folder / "images"), str(folder / "masks")]


@pytest.mark.parametrize("forgotten", [(3,), (3, 7), (3, 255)], ids=str)
def test_a_class_that_nobody_names_is_said(tmp_path, capsys, forgotten):
    source = label_maps(tmp_path, 0, 1, 2, *forgotten)
    write_config(*source, "--classes", "a", "b", "c", "--output", tmp_path / "x.py")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    share = f"{100 / (3 + len(forgotten)):.1f}"
    named = [value for value in forgotten if value != 255]
    assert len(notes) == len(named)
    for value, note in zip(named, notes, strict=True):
        assert note.startswith(
            f"note: 128 pixels ({share} %) of number {value} are of no class and are ignored; name it in --classes"
        )


def test_a_label_map_of_another_size_is_no_data(tmp_path, capsys):
    source = label_maps(tmp_path, 0, 1)
    for path in (tmp_path / "images").iterdir():
        Image.new("RGB", (5, 5)).save(path)
    assert main(["new-config", *source, "--classes", "a", "b", "--output", str(tmp_path / "x.py")]) == 2
    assert "has the size of its image" in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))


def test_the_next_command_can_be_pasted(scenes, tmp_path, capsys, monkeypatch):
    source = ("--coco", scenes / "annotations/instances_train.json", scenes / "train")
    output = tmp_path / "it's my $HOME; data.py"
    write_config(*source, "--output", output)
    assert next_command(capsys) == ["hybrid-dense", "train", str(output)]
    output.unlink()
    for path in tmp_path.iterdir():
        path.unlink()
    write_config(*source, "--output", output, "--gpus", 2)
    script, *rest = next_command(capsys)
    assert script.endswith("tools/dist_train.sh") and Path(script).is_file() and rest == [str(output), "2"]
    monkeypatch.chdir(CONFIGS.parent)
    assert training_command(Path("a b.py"), 4) == "tools/dist_train.sh 'a b.py' 4"


def next_command(capsys) -> list[str]:
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next:"))
    return shlex.split(line.removeprefix("next:"))


def test_nothing_is_overwritten(scenes, tmp_path, capsys):
    (tmp_path / "mine_train.json").write_text("precious")
    source = ["--coco", str(scenes / "annotations/instances_train.json"), str(scenes / "train")]
    assert main(["new-config", *source, "--output", str(tmp_path / "mine.py")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine_train.json").read_text() == "precious"
