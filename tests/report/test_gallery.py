"""Pictures of predictions: what they show is what the prediction says, and nothing leaves the picture."""

import matplotlib
import numpy as np
import pytest
from matplotlib import image as pictures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hybrid_dense.prediction import Prediction
from hybrid_dense.report.gallery import PANEL, class_colours, draw_prediction, save_gallery, save_prediction

NAMES = ("disk", "square", "triangle", "star", "ring", "cross")
GREY = np.full((60, 80, 3), 128, np.uint8)


def instances(boxes=((20, 10, 50, 40),), scores=(0.9,), labels=(0,), with_masks=True, image=GREY, names=NAMES):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), *image.shape[:2]), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    scores = None if scores is None else np.array(scores, np.float32)
    return Prediction(
        image=image,
        boxes=boxes,
        scores=scores,
        labels=np.array(labels, np.int64),
        masks=masks if with_masks else None,
        class_names=names,
    )


def semantic(label_map, names=("background", *NAMES)):
    return Prediction(image=GREY, label_map=label_map, class_names=names)


def saved(prediction, path, **options):
    """The written picture as float (H, W, 3), and how many of its pixels one pixel of the image takes."""
    picture = pictures.imread(save_prediction(prediction, path, **options))[..., :3]
    return picture, picture.shape[1] / prediction.image.shape[1]


def on_axes(prediction, width, height):
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    draw_prediction(ax, prediction)
    figure.canvas.draw()
    return ax


def test_palette_is_fixed_distinct_and_skips_the_background():
    colours = class_colours(NAMES)
    assert colours.shape == (6, 3)
    assert (class_colours(("background", *NAMES))[1:] == colours).all()
    assert (class_colours(NAMES + ("more",) * 3)[:6] == colours).all()
    many = class_colours(tuple(f"c{i}" for i in range(133)))
    assert many.min() >= 0 and many.max() <= 1
    assert len({tuple(c) for c in many.round(4)}) == 133
    assert class_colours(()).shape == (0, 3)


def test_picture_has_the_native_size_times_a_whole_factor(tmp_path):
    assert saved(instances(), tmp_path / "a.png")[0].shape == (480, 640, 3)
    large = instances(image=np.zeros((700, 1000, 3), np.uint8))
    assert saved(large, tmp_path / "b.png")[0].shape == (700, 1000, 3)


def test_mask_is_washed_in_its_class_colour_and_the_rest_is_untouched(tmp_path):
    picture, scale = saved(instances(labels=[2]), tmp_path / "a.png")
    inside = picture[int(25 * scale), int(35 * scale)]
    expected = 0.55 * 128 / 255 + 0.45 * class_colours(NAMES)[2]
    assert np.allclose(inside, expected, atol=0.02)
    assert np.allclose(picture[int(50 * scale), int(70 * scale)], 128 / 255, atol=0.01)


def test_contour_follows_the_mask_not_the_box(tmp_path):
    hole = instances()
    hole.masks[0, 20:30, 30:40] = False
    plain, scale = saved(instances(), tmp_path / "a.png")
    holed, _ = saved(hole, tmp_path / "b.png")
    assert np.allclose(holed[int(25 * scale), int(35 * scale)], 128 / 255, atol=0.01)  # untouched in the hole
    edge = holed[int(25 * scale), int(30 * scale) - 3 : int(30 * scale) + 4]
    assert np.abs(edge - class_colours(NAMES)[0]).sum(1).min() < 0.2
    assert (holed != plain).any(2).mean() < 0.05


def test_boxes_without_masks_are_outlined_only(tmp_path):
    picture, scale = saved(instances(with_masks=False), tmp_path / "a.png")
    assert np.allclose(picture[int(25 * scale), int(35 * scale)], 128 / 255, atol=0.01)
    edge = picture[int(25 * scale), int(20 * scale) - 3 : int(20 * scale) + 4]
    assert np.abs(edge - class_colours(NAMES)[0]).sum(1).min() < 0.2


def test_low_scores_are_left_out_but_ground_truth_is_drawn_whole(tmp_path):
    low, _ = saved(instances(scores=[0.2]), tmp_path / "low.png")
    assert np.allclose(low, 128 / 255, atol=0.01)
    lower_bar, _ = saved(instances(scores=[0.2]), tmp_path / "bar.png", min_score=0.1)
    assert not np.allclose(lower_bar, 128 / 255, atol=0.01)
    assert [t.get_text() for t in on_axes(instances(scores=None), 400, 300).texts] == ["disk"]
    assert [t.get_text() for t in on_axes(instances(), 400, 300).texts] == ["disk 0.90"]


def test_no_instances_is_the_bare_image(tmp_path):
    empty = instances(boxes=(), scores=(), labels=())
    assert np.allclose(saved(empty, tmp_path / "a.png")[0], 128 / 255, atol=0.01)
    no_names = instances(boxes=(), scores=(), labels=(), names=())
    assert np.allclose(saved(no_names, tmp_path / "b.png")[0], 128 / 255, atol=0.01)


@pytest.mark.parametrize("corner", [(0, 0, 8, 6), (72, 0, 80, 6), (0, 54, 8, 60), (72, 54, 80, 60), (-9, -9, 90, 70)])
def test_names_stay_inside_the_picture(corner):
    ax = on_axes(instances(boxes=[corner]), 320, 240)
    (text,) = ax.texts
    patch = text.get_bbox_patch().get_window_extent()
    assert patch.x0 >= 0 and patch.y0 >= 0 and patch.x1 <= 320 and patch.y1 <= 240


def test_small_objects_come_to_lie_on_top(tmp_path):
    boxes, labels = [(30, 20, 40, 30), (10, 5, 70, 55)], [4, 2]  # a small ring given before a large triangle around it
    picture, scale = saved(instances(boxes, (0.9, 0.9), labels), tmp_path / "a.png")
    around, inside = picture[int(45 * scale), int(60 * scale)], picture[int(25 * scale), int(35 * scale)]
    assert np.allclose(inside, 0.55 * around + 0.45 * class_colours(NAMES)[4], atol=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_label_map_colours_classes_and_leaves_background_and_ignored_pixels(tmp_path, dtype):
    label_map = np.zeros((60, 80), dtype)
    label_map[:30, :40] = 3
    label_map[30:, :20] = 255
    prediction = semantic(label_map)
    picture, scale = saved(prediction, tmp_path / "a.png")
    expected = 0.35 * 128 / 255 + 0.65 * class_colours(NAMES)[2]
    assert np.allclose(picture[int(15 * scale), int(20 * scale)], expected, atol=0.02)
    assert np.allclose(picture[int(45 * scale), int(10 * scale)], 128 / 255, atol=0.01)
    assert np.allclose(picture[int(15 * scale), int(60 * scale)], 128 / 255, atol=0.01)
    assert [t.get_text() for t in on_axes(prediction, 400, 300).get_legend().get_texts()] == ["triangle"]


def test_label_map_without_names_is_numbered_and_with_too_few_is_refused():
    label_map = np.full((60, 80), 2)
    legend = on_axes(semantic(label_map, ()), 400, 300).get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["class 2"]
    with pytest.raises(ValueError, match="holds class 2 but there are 2 class names"):
        on_axes(semantic(label_map, ("road", "car")), 400, 300)


@pytest.mark.parametrize(("count", "across", "down"), [(1, 2, 1), (3, 2, 3), (5, 4, 3)])
def test_gallery_lays_out_ground_truth_beside_prediction(tmp_path, count, across, down):
    pairs = [(instances(scores=None), instances(scores=[0.1]))] * count
    picture = pictures.imread(save_gallery(pairs, tmp_path / "deep" / "g.png"))[..., :3]
    assert across * PANEL < picture.shape[1] < across * (PANEL + 20)
    assert down * PANEL * 0.75 < picture.shape[0] < down * (PANEL * 0.75 + 10) + 40
    # The masks' colour is on the left of the first pair alone.
    wash = 0.55 * 128 / 255 + 0.45 * class_colours(NAMES)[0]
    washed = np.abs(picture - wash).max(2) < 0.02
    assert washed[:, : PANEL + 8].sum() > 1000
    assert washed[:, PANEL + 12 : 2 * PANEL].sum() == 0


def test_gallery_of_label_maps_has_one_legend_and_portraits_fit(tmp_path):
    label_map = np.zeros((60, 80), np.int64)
    label_map[10:20, 10:20] = 1
    tall = Prediction(image=np.zeros((90, 30, 3), np.uint8), label_map=np.ones((90, 30), int), class_names=("a", "b"))
    pairs = [(semantic(label_map), semantic(label_map)), (tall, tall)]
    picture = pictures.imread(save_gallery(pairs, tmp_path / "g.png"))
    rows = 0.75 * PANEL + PANEL
    assert rows + 24 < picture.shape[0] < rows + 100
    below = picture[-24:, :, :3]
    assert np.abs(below - class_colours(NAMES)[0]).sum(2).min() < 0.02  # the legend's patch of class "disk"


def test_an_empty_gallery_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        save_gallery([], tmp_path / "g.png")


def test_drawing_leaves_pyplot_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    save_prediction(instances(), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    from matplotlib import _pylab_helpers

    assert not _pylab_helpers.Gcf.figs
