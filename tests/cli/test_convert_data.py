"""`hybrid-dense convert-data` at the command line; what is kept and lost is in tests/data/test_formats.py."""

import json

import pytest
from pycocotools.coco import COCO

from hybrid_dense.cli import main


def test_there_and_back(scenes, tmp_path, capsys):
    """COCO → VOC → COCO; every annotation is what it was."""
    assert main(["convert-data", str(scenes), str(tmp_path / "voc"), "--from", "coco", "--to", "voc", "--link"]) == 0
    assert (tmp_path / "voc/JPEGImages/train/000001.jpg").is_symlink()  # train and val name their images alike
    assert main(["convert-data", str(tmp_path / "voc"), str(tmp_path / "coco"), "--from", "voc", "--to", "coco"]) == 0
    for split in ("train", "val"):
        name = f"annotations/instances_{split}.json"
        before, after = (json.loads((root / name).read_text()) for root in (scenes, tmp_path / "coco"))
        assert before["annotations"] == after["annotations"]
        assert before["images"] == after["images"] and before["categories"] == after["categories"]
        assert (tmp_path / "coco" / split / "000001.jpg").read_bytes() == (scenes / split / "000001.jpg").read_bytes()
    printed = capsys.readouterr().out
    assert "train: 8 images" in printed and "6 classes" in printed and "not kept" not in printed


def test_losses_are_printed(scenes, tmp_path, capsys):
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    content["annotations"][0]["bbox"] = [1, 1, 2.5, 2.5]
    content["annotations"][1]["score"] = 0.5
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "val").symlink_to(scenes / "val")
    target = tmp_path / "voc"
    assert main(["convert-data", str(tmp_path / "val.json"), str(target), "--from", "coco", "--to", "voc"]) == 0
    printed = capsys.readouterr().out
    assert "not kept: 1 boxes rounded to whole pixels (first: 000001.xml)" in printed
    assert "not kept: 1 annotations lose 'score'" in printed


def test_label_maps_become_coco(scenes, tmp_path, capsys):
    classes = ["background", "disk", "square", "triangle", "star", "ring", "cross"]
    arguments = [str(scenes), str(tmp_path / "coco"), "--from", "masks", "--to", "coco", "--classes", *classes]
    assert main(["convert-data", *arguments]) == 0
    coco = COCO(str(tmp_path / "coco/annotations/instances_train.json"))
    per_image = {image: len(coco.getAnnIds(imgIds=[image])) for image in coco.getImgIds()}
    assert len(per_image) == 8 and all(2 <= count <= 7 for count in per_image.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none", "{tmp}/new", "--from", "voc", "--to", "coco"], "no such folder or file"),
        (["{scenes}", "{scenes}", "--from", "coco", "--to", "voc"], "is not empty"),
        (["{scenes}", "{tmp}/new", "--from", "voc", "--to", "coco"], "not in VOC's layout"),
        (["{scenes}", "{tmp}/new", "--from", "masks", "--to", "coco"], "--classes a b c"),
        (["{scenes}", "{tmp}/new", "--from", "coco", "--to", "voc", "--classes", "a"], "has its own names"),
        (["{tmp}", "{tmp}/new", "--from", "coco", "--to", "voc"], "has no annotations"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_a_user_can_mend_is_one_line(scenes, tmp_path, capsys, arguments, message):
    arguments = [argument.format(scenes=scenes, tmp=tmp_path) for argument in arguments]
    assert main(["convert-data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_breaks_half_way_leaves_nothing(scenes, tmp_path, capsys):
    classes = ["only", "two"]  # the label maps have 0 … 6
    arguments = [str(scenes), str(tmp_path / "new"), "--from", "masks", "--to", "masks", "--classes", *classes]
    assert main(["convert-data", *arguments]) == 0
    assert "not kept" in capsys.readouterr().out
    first = tmp_path / "new/masks/train/000001.png"
    first.write_bytes(first.read_bytes()[:60])
    again = ["convert-data", str(tmp_path / "new"), str(tmp_path / "newer"), "--from", "masks", "--to", "coco"]
    assert main(again) == 2
    assert "cannot be read as a label map" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
