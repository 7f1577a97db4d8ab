"""The embedded data set: exact masks, the COCO layout, the same bytes for the same seed, and no half-written folder."""

import json
import os
import time

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hybrid_dense.data import scenes
from hybrid_dense.data.scenes import CLASSES, label_map, render_scene, scenes_root, write_scenes

SMALL = {"train": 12, "val": 5, "size": 96, "seed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", **SMALL)


def all_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def some_scenes(count=60, size=(192, 192)):
    return [render_scene(np.random.default_rng(seed), size) for seed in range(count)]


def test_scene_has_the_promised_shapes():
    for image, masks, labels in some_scenes(10, (80, 123)):
        assert image.shape == (80, 123, 3) and image.dtype == np.uint8
        assert masks.shape == (len(labels), 80, 123) and masks.dtype == bool
        assert 1 <= len(labels) <= 6 and labels.dtype == np.int64


def test_masks_never_overlap_and_every_object_can_be_seen():
    for _, masks, _ in some_scenes():
        assert masks.sum(0).max() == 1
        assert masks.sum((1, 2)).min() >= 50  # pixels of 192 x 192


def test_every_class_and_both_small_and_large_objects_occur():
    drawn = some_scenes()
    labels = np.concatenate([labels for _, _, labels in drawn])
    assert np.bincount(labels, minlength=len(CLASSES)).min() >= 10
    sides = [np.sqrt(mask.any(0).sum() * mask.any(1).sum()) for _, masks, _ in drawn for mask in masks]
    assert np.percentile(sides, 10) < 32 and np.percentile(sides, 90) > 70
    counts = [len(labels) for _, _, labels in drawn]
    assert min(counts) == 2 and max(counts) == 6


def test_occlusion_occurs():
    # Around a hidden part two masks touch; count scenes where one does.
    kernel = np.ones((3, 3), np.uint8)
    touching = sum(
        any((cv2.dilate(mask.astype(np.uint8), kernel).astype(bool) & masks.any(0) & ~mask).any() for mask in masks)
        for _, masks, _ in some_scenes()
    )
    assert touching >= 20


def test_mask_is_where_the_object_shows(monkeypatch):
    # Paint the first object twice, red and green, all else equal: the pixels that change most are its mask.
    def draw(colour):
        monkeypatch.setattr(scenes, "_object_colours", lambda rng, label: (np.float32(colour), np.float32(colour)))
        return render_scene(np.random.default_rng(5), objects=(1, 1))

    red, masks, _ = draw((255, 0, 0))
    green, again, _ = draw((0, 255, 0))
    assert (masks == again).all()
    difference = np.abs(red.astype(int) - green.astype(int)).sum(2)
    wrong = ((difference > 0.5 * difference.max()) != masks[0]).sum()
    border = cv2.morphologyEx(masks[0].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).sum()
    assert masks[0].sum() > 300
    assert wrong < 0.1 * border  # only where an edge pixel is about half covered
    assert difference[cv2.dilate(masks[0].astype(np.uint8), np.ones((5, 5), np.uint8)) == 0].max() == 0


def test_label_map_names_the_visible_object():
    _, masks, labels = render_scene(np.random.default_rng(0))
    semantic = label_map(masks, labels)
    assert semantic.dtype == np.uint8
    for mask, label in zip(masks, labels, strict=True):
        assert (semantic[mask] == label + 1).all()
    assert (semantic[~masks.any(0)] == 0).all()


def test_a_scene_too_small_to_draw_in_is_refused():
    with pytest.raises(ValueError, match="16x64 is too small"):
        render_scene(np.random.default_rng(0), (16, 64))


def test_coco_reads_it_and_every_annotation_is_exact(root):
    for split, count in (("train", 12), ("val", 5)):
        coco = COCO(root / "annotations" / f"instances_{split}.json")
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image_id, image in coco.imgs.items():
            pixels = cv2.imread(str(root / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3) == (96, 96, 3)
            semantic = cv2.imread(str(root / f"{split}_labels" / f"{image_id:06d}.png"), cv2.IMREAD_UNCHANGED)
            assert semantic.shape == (96, 96)
            rebuilt = np.zeros_like(semantic)
            for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
                mask = coco.annToMask(annotation).astype(bool)
                ys, xs = np.nonzero(mask)
                extent = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
                assert annotation["bbox"] == extent
                assert annotation["area"] == mask.sum() == coco_mask.area(annotation["segmentation"])
                assert annotation["iscrowd"] == 0
                assert not rebuilt[mask].any()
                rebuilt[mask] = annotation["category_id"]
            assert (rebuilt == semantic).all()


def test_images_show_the_scenes_that_were_rendered(root):
    image, masks, labels = render_scene(np.random.default_rng([3, 0, 1]), (96, 96))
    stored = cv2.imread(str(root / "train" / "000001.jpg"))[..., ::-1]
    assert np.abs(stored.astype(int) - image).mean() < 4  # JPEG
    coco = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert [a["category_id"] for a in coco["annotations"] if a["image_id"] == 1] == (labels + 1).tolist()


def test_same_seed_same_bytes_other_seed_other_bytes(root, tmp_path):
    again = all_bytes(write_scenes(tmp_path / "again", **SMALL))
    assert again == all_bytes(root)
    other = all_bytes(write_scenes(tmp_path / "other", **{**SMALL, "seed": 4}))
    assert other.keys() == again.keys()
    assert all(other[name] != again[name] for name in again)


def test_train_differs_from_val_and_a_longer_split_starts_alike(root, tmp_path):
    files = all_bytes(root)
    assert all(files[f"train/{i:06d}.jpg"] != files[f"val/{i:06d}.jpg"] for i in range(1, 6))
    longer = all_bytes(write_scenes(tmp_path / "longer", **{**SMALL, "train": 14}))
    assert all(longer[f"train/{i:06d}.jpg"] == files[f"train/{i:06d}.jpg"] for i in range(1, 13))


def test_progress_counts_every_scene(tmp_path):
    seen = []
    write_scenes(tmp_path / "s", train=2, val=1, size=48, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class Killed(BaseException):
    pass


def test_a_run_that_dies_half_way_leaves_nothing_and_the_next_one_succeeds(root, tmp_path):
    def die(done, total):
        if done == total - 1:
            raise Killed

    with pytest.raises(Killed):
        write_scenes(tmp_path / "scenes", **SMALL, progress=die)
    assert list(tmp_path.iterdir()) == []
    assert all_bytes(write_scenes(tmp_path / "scenes", **SMALL)) == all_bytes(root)


def test_what_a_killed_process_left_is_not_taken_for_complete_and_goes_away_later(root, tmp_path, monkeypatch):
    # A process killed outright cannot tidy up.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(scenes.shutil, "rmtree", lambda *args, **kwargs: None)
        patch.setattr(scenes, "_coco", lambda *args: (_ for _ in ()).throw(Killed()))
        write_scenes(tmp_path / "scenes", **SMALL)
    (partial,) = tmp_path.iterdir()
    assert any(partial.rglob("*.jpg")) and not (tmp_path / "scenes").exists()

    assert all_bytes(write_scenes(tmp_path / "scenes", **SMALL)) == all_bytes(root)
    assert partial.exists()  # it might be another process at work
    os.utime(partial, (time.time() - 7200,) * 2)
    write_scenes(tmp_path / "scenes", **SMALL)
    assert not partial.exists()


def test_two_processes_that_write_the_same_folder_both_get_it(root, tmp_path, monkeypatch):
    other = []

    def faster(done, total):
        if not other:
            other.append(True)
            write_scenes(tmp_path / "scenes", **SMALL)

    assert write_scenes(tmp_path / "scenes", **SMALL, progress=faster) == tmp_path / "scenes"
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]
    assert all_bytes(tmp_path / "scenes") == all_bytes(root)


def test_a_complete_folder_is_reused_and_anything_else_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "render_scene", lambda *args: pytest.fail("drew a scene again"))
    assert write_scenes(root, **SMALL) == root
    with pytest.raises(FileExistsError, match="'seed': 3.*name another folder"):
        write_scenes(root, **{**SMALL, "seed": 9})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no scenes data set"):
        write_scenes(tmp_path, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="val=0"):
        write_scenes(tmp_path / "none", val=0)
    with pytest.raises(ValueError, match="train=many scenes; ask for at least 1"):
        write_scenes(tmp_path / "none", train="many")


def test_cache_folder_comes_from_the_environment_and_names_the_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_DENSE_CACHE", str(tmp_path / "cache"))
    tiny = {"train": 1, "val": 1, "size": 48}
    first, second = scenes_root(**tiny), scenes_root(**tiny, seed=1)
    assert first.parent == second.parent == tmp_path / "cache"
    assert first != second and scenes_root(**tiny) == first
    assert scenes_root(tmp_path / "mine", **tiny).name == first.name
    monkeypatch.delenv("HYBRID_DENSE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert scenes_root(**tiny) == tmp_path / "home" / ".cache" / "hybrid_dense" / first.name
