"""Corrupted images: worse with strength, the same each time, and with labels that still fit."""

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from hybrid_dense.study.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    Corrupt,
    MoveLabels,
    corrupt_pipeline,
    corruption_rows,
    draw_move,
    move,
)


@pytest.fixture
def image():
    """A photo's kind of picture: soft shapes on a gradient, (150, 200, 3)."""
    random = np.random.default_rng(0)
    rough = random.integers(0, 200, (15, 20, 3), dtype=np.uint8)
    return cv2.resize(rough, (200, 150), interpolation=cv2.INTER_CUBIC)


def corrupted(image, name, strength, index=3):
    return Corrupt(name, strength)(dict(img=image.copy(), sample_idx=index))["img"]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_gets_worse_with_strength_and_keeps_its_form(image, name):
    distances = []
    for strength in STRENGTHS:
        found = corrupted(image, name, strength)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
        distances.append(np.abs(found.astype(float) - image).mean())
    assert distances[0] > 0.3
    assert all(worse > better for better, worse in zip(distances, distances[1:], strict=False)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_image_is_changed_in_the_same_way(image, name):
    before = image.copy()
    np.testing.assert_array_equal(corrupted(image, name, 3), corrupted(image, name, 3))
    np.testing.assert_array_equal(image, before)


def test_another_image_gets_other_noise(image):
    assert (corrupted(image, "noise", 3, index=4) != corrupted(image, "noise", 3)).mean() > 0.5


def test_noise_has_the_stated_deviation():
    grey = np.full((100, 100, 3), 128, np.uint8)
    noise = corrupted(grey, "noise", 1).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.08, rel=0.02)
    assert abs(noise.mean()) < 1


def test_brightness_adds_to_the_value():
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert (corrupted(grey, "brightness", 2) == 151).all()  # 0.2 of 255
    assert (corrupted(np.full((4, 4, 3), 250, np.uint8), "brightness", 5) == 255).all()


def test_move_takes_every_pixel_along_and_mirrors_the_edge():
    rows = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(move(rows, (1, 0)), rows[[0, 0, 1]])
    np.testing.assert_array_equal(move(rows, (-1, 0)), rows[[1, 2, 2]])
    np.testing.assert_array_equal(move(rows, (0, 2)), rows[:, [1, 0, 0, 1]])
    np.testing.assert_array_equal(move(rows, (0, -1)), rows[:, [1, 2, 3, 3]])


def test_a_shift_goes_as_far_as_stated_in_all_directions():
    moves = {draw_move((50, 200), 0.08, np.random.default_rng(index)) for index in range(40)}
    assert moves == {(4, 4), (4, -4), (-4, 4), (-4, -4)}
    assert draw_move((10, 10), 0.01, np.random.default_rng(0)) != (0, 0)


def test_labels_move_with_their_image():
    """The label map is a channel of the image: after both steps it still is, mirrored edge and all."""
    labels = np.random.default_rng(0).integers(0, 12, (40, 50), dtype=np.uint8)
    results = Corrupt("shift", 5)(dict(img=np.repeat(labels[..., None], 3, axis=2), sample_idx=0))
    assert (results["img"][..., 0] != labels).mean() > 0.5
    results = MoveLabels()(dict(results, gt_seg_map=labels.copy()))
    np.testing.assert_array_equal(results["gt_seg_map"], results["img"][..., 1])


def test_labels_stay_where_nothing_moved(image):
    results = Corrupt("blur", 1)(dict(img=image, sample_idx=0))
    labels = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(MoveLabels()(dict(results, gt_seg_map=labels))["gt_seg_map"], labels)


def test_a_pipeline_gets_the_steps_where_they_belong():
    steps = [dict(type="LoadImageFromFile"), dict(type="Resize"), dict(type="LoadAnnotations"), dict(type="Pack")]
    found = corrupt_pipeline(steps, "shift", 2)
    assert [step["type"] for step in found] == [
        *("LoadImageFromFile", "Corrupt", "Resize", "LoadAnnotations", "MoveLabels", "Pack")
    ]
    assert isinstance(TRANSFORMS.build(found[1]), Corrupt)
    assert len(steps) == 4
    with pytest.raises(ValueError, match="no step of the test pipeline loads an image"):
        corrupt_pipeline(steps[1:], "shift", 2)


def test_what_cannot_be_corrupted_is_named(image):
    with pytest.raises(ValueError, match="'fog' is none of noise, blur, brightness, jpeg, shift"):
        Corrupt("fog", 1)
    with pytest.raises(ValueError, match="strength 6 is none of"):
        Corrupt("blur", 6)
    with pytest.raises(ValueError, match="float32 .* cannot be corrupted"):
        Corrupt("blur", 1)(dict(img=image.astype(np.float32), sample_idx=0))
    with pytest.raises(ValueError, match="shift moves label maps, not boxes"):
        Corrupt("shift", 1)(dict(img=image, sample_idx=0, instances=[dict(bbox=[0, 0, 1, 1])]))


def test_the_table_names_every_strength():
    header, rows = corruption_rows()
    assert [row[0] for row in rows] == list(CORRUPTIONS)
    assert {len(row) for row in rows} == {len(header)} == {2 + len(STRENGTHS)}
