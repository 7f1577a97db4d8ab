"""Masks drawn after the crop, against mmdet's own, drawn first: by the same transforms and random numbers."""

import copy
import pickle

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmdet.datasets import CocoDataset
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS, DefaultScope
from pycocotools import mask as coco_mask

from hybrid_dense.data.late_masks_mmdet import Axis, LateMasks, Patch
from hybrid_dense.data.panoptic_mmdet import LoadPanopticMaps

SIZE = (120, 160)


def star(rng, size=SIZE, corners=9):
    """A polygon around a point of the picture, parts of it outside, corners on tenths of a pixel as COCO has them."""
    height, width = size
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(0.1, 0.4, corners) * min(size)
    centre = rng.uniform((0, 0), (width, height))
    points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    return points.clip(0, (width, height)).round(1).ravel()


def rasterise(polygons, size=SIZE):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))


def compressed(bitmap):
    code = coco_mask.encode(np.asfortranarray(bitmap))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed(bitmap):
    flat = np.concatenate([[0], bitmap.ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat) != 0)
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(bitmap.shape), "counts": counts}


@pytest.fixture
def sources():
    """Polygons, two parts that overlap, run lengths of both kinds, a patch, and an object without a pixel."""
    rng = np.random.default_rng(0)
    polygons = [[star(rng)] for _ in range(6)] + [[star(rng), star(rng)], [np.zeros(6)]]
    bitmaps = [rasterise([star(rng)]) for _ in range(3)]
    assert coco_mask.decode(coco_mask.frPyObjects(uncompressed(bitmaps[1]), *SIZE)).tolist() == bitmaps[1].tolist()
    return [*polygons, compressed(bitmaps[0]), uncompressed(bitmaps[1]), Patch.of(bitmaps[2])]


def drawn_first(sources, size=SIZE):
    def draw(source):
        if isinstance(source, list):
            return rasterise(source, size)
        if isinstance(source, Patch):
            bitmap = np.zeros(size, np.uint8)
            left, top, right, bottom = source.box
            bitmap[top:bottom, left:right] = source.pixels
            return bitmap
        return coco_mask.decode(coco_mask.frPyObjects(source, *size) if isinstance(source["counts"], list) else source)

    return BitmapMasks([draw(source) for source in sources], *size)


STEPS = {
    "nothing": lambda masks: masks,
    "crop": lambda masks: masks.crop(np.array([31, 17, 131, 103])),
    "crop beyond the picture": lambda masks: masks.crop(np.array([100, 60, 300, 200])),
    "horizontal": lambda masks: masks.flip(),
    "vertical": lambda masks: masks.flip("vertical"),
    "flip, crop, flip, crop": lambda masks: (
        masks.flip("diagonal").crop(np.array([10, 20, 150, 110])).flip("horizontal").crop(np.array([33, 7, 90, 77]))
    ),
    "chosen": lambda masks: masks[np.array([8, 0, 9])].flip(),
    "one": lambda masks: masks[7],
    "none": lambda masks: masks[np.zeros(len(masks), bool)].flip().crop(np.array([3, 4, 20, 30])),
    "a slice": lambda masks: masks[2:-1],
    "padded": lambda masks: masks.crop(np.array([5, 6, 50, 60])).pad((80, 96), 0),
    "padded with ones": lambda masks: masks.pad((130, 170), pad_val=1),
    "shifted": lambda masks: masks.flip().translate(SIZE, 12.0),
    "joined": lambda masks: masks.cat([masks, masks.flip()]),
    "same size": lambda masks: masks.rescale((160, 120)).resize(SIZE),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_without_a_change_of_scale_nothing_differs(sources, steps):
    ours, host = steps(LateMasks(sources, *SIZE)), steps(drawn_first(sources))
    assert (len(ours), ours.height, ours.width) == (len(host), host.height, host.width)
    assert ours.areas.tolist() == host.areas.tolist()
    boxes = ours.get_bboxes(HorizontalBoxes).tensor
    assert boxes.tolist() == host.get_bboxes(HorizontalBoxes).tensor.tolist()
    again = pickle.loads(pickle.dumps(ours))
    assert again.to_ndarray().tolist() == ours.to_ndarray().tolist() == host.to_ndarray().tolist()
    assert ours.to_ndarray().dtype == np.uint8


@pytest.mark.parametrize("size", [(96, 130), (300, 400), (37, 49)])
def test_bitmaps_are_resized_as_the_host_does_it(sources, size):
    bitmaps = sources[8:]
    crop = np.array([5, 3, 40, 31])
    host = drawn_first(bitmaps).resize(size).crop(crop)
    assert (LateMasks(bitmaps, *SIZE).resize(size).crop(crop).masks == host.masks).all()


@pytest.mark.parametrize("factor", [0.3, 0.77, 1.6, 2.5])
def test_outlines_are_scaled_more_exactly_than_pixels(factor):
    """The truth is a drawing in four times the resolution."""
    rng = np.random.default_rng(1)
    polygons = [[star(rng)] for _ in range(30)]
    size = tuple(round(factor * side) for side in SIZE)

    def truth(polygon):
        scale = np.tile(np.array(size[::-1]) * 4 / SIZE[::-1], len(polygon[0]) // 2)
        fine = rasterise([polygon[0] * scale], (4 * size[0], 4 * size[1]))
        return fine.reshape(size[0], 4, size[1], 4).mean((1, 3)) >= 0.5

    def overlaps(masks):
        pairs = [(mask.astype(bool), truth(polygon)) for mask, polygon in zip(masks.masks, polygons, strict=True)]
        return np.array([(mask & true).sum() / (mask | true).sum() for mask, true in pairs if true.sum() > 200])

    ours, host = overlaps(LateMasks(polygons, *SIZE).resize(size)), overlaps(drawn_first(polygons).resize(size))
    assert ours.min() > 0.94
    assert ours.mean() > max(host.mean(), 0.98)


def test_after_somebody_wrote_into_the_pixels_they_count(sources):
    masks = LateMasks(sources, *SIZE)
    masks.masks[:, :60] = 0  # as RandomErasing does
    assert type(masks) is BitmapMasks
    assert masks.flip("vertical").masks[:, 60:].sum() == 0 < masks.masks.sum()


def test_only_what_is_asked_for_is_drawn(sources, monkeypatch):
    """Transforms draw nothing, a choice keeps what is drawn, and a pickle holds patches instead of pictures."""
    masks = LateMasks(sources * 4, *SIZE).flip().resize((900, 1200)).crop(np.array([0, 0, 1000, 900]))
    assert masks.drawn is None
    assert sum(masks.areas > 0) > 10
    chosen = masks[masks.areas > 0]
    assert chosen.drawn is not None
    assert len(pickle.dumps(chosen)) < chosen.to_ndarray().size / 4


def test_run_lengths_of_another_picture_are_refused(sources):
    with pytest.raises(ValueError, match=r"a mask of \[120, 160\] pixels in an image of \[120, 161\]"):
        LateMasks(sources, 120, 161)


def test_an_axis_follows_what_is_done_to_it():
    axis = Axis(100).flipped().cropped(10, 50).resized(25)
    assert (axis.length, axis.scale, axis.start, axis.mirrored) == (25, 0.5, 20.0, True)
    assert axis.flipped().sources(100).tolist() == list(range(40, 90, 2))


# ------------------------------------------------------------------------------- in mmdet's pipelines


def pipeline(load, *steps, **options):
    with DefaultScope.overwrite_default_scope("mmdet"):
        first = [dict(type="LoadImageFromNDArray"), dict(type=load, with_bbox=True, with_mask=True, **options)]
        return Compose([TRANSFORMS.build(step) for step in (*first, *steps, dict(type="PackDetInputs"))])


def annotate(sources, size=SIZE):
    instances = []
    for number, source in enumerate(sources):
        if isinstance(source, Patch):
            continue
        left, top, right, bottom = Patch.of(drawn_first([source], size).masks[0]).box
        mask = [polygon.tolist() for polygon in source] if isinstance(source, list) else source
        box = [left, top, max(right, left + 1), max(bottom, top + 1)]
        instances.append(dict(bbox=box, bbox_label=number, mask=mask, ignore_flag=int(number == 3)))
    # What mmdet replaces by an object to be ignored: too few corners, and run lengths without a size.
    instances.append(dict(bbox=[1, 1, 9, 9], bbox_label=50, mask=[[1, 1, 9, 9]], ignore_flag=0))
    instances.append(dict(bbox=[1, 1, 9, 9], bbox_label=51, mask=dict(counts="abc"), ignore_flag=0))
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    return dict(img=image, height=size[0], width=size[1], instances=instances)


def run(pipeline, sample, seed):
    np.random.seed(seed)
    return pipeline(copy.deepcopy(sample))


FLIP = dict(type="RandomFlip", prob=[0.3, 0.3, 0.3], direction=["horizontal", "vertical", "diagonal"])
CROP = dict(type="RandomCrop", crop_size=(70, 50), recompute_bbox=True, allow_negative_crop=True)
CLEAN = dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2), by_mask=True)
JITTER = dict(type="RandomResize", scale=SIZE[::-1], ratio_range=(0.1, 2.0), keep_ratio=True)


def assert_same(ours, host):
    assert ours["inputs"].tolist() == host["inputs"].tolist()
    for kind in ("gt_instances", "ignored_instances"):
        own, other = getattr(ours["data_samples"], kind), getattr(host["data_samples"], kind)
        assert own.labels.tolist() == other.labels.tolist()
        assert own.bboxes.tensor.tolist() == other.bboxes.tensor.tolist()
        assert own.masks.to_ndarray().tolist() == other.masks.to_ndarray().tolist()
    assert ours["data_samples"].metainfo == host["data_samples"].metainfo


@pytest.mark.parametrize("seed", range(12))
def test_crops_are_those_of_the_host_to_the_pixel(sources, seed):
    sample = annotate(sources)
    ours, host = (run(pipeline(load, FLIP, CROP, CLEAN), sample, seed) for load in ("LoadLateMasks", "LoadAnnotations"))
    assert (ours is None) == (host is None)
    if host is not None:
        assert_same(ours, host)


def test_run_lengths_survive_where_the_hosts_polygons_drop_them(sources):
    sample = annotate(sources)
    kept = run(pipeline("LoadLateMasks"), sample, 0)["data_samples"].gt_instances
    dropped = run(pipeline("LoadAnnotations", poly2mask=False), sample, 0)["data_samples"].gt_instances
    assert isinstance(dropped.masks, PolygonMasks)
    assert {8, 9} <= set(kept.labels.tolist()) - set(dropped.labels.tolist())
    assert not {3, 50, 51} & set(kept.labels.tolist())


@pytest.mark.parametrize("seed", range(12))
def test_under_jitter_the_same_objects_are_left(sources, seed):
    """All but those of a few pixels, of which one drawing may show something and the other nothing."""
    sample = annotate(sources)
    ours, host = (
        run(pipeline(load, FLIP, JITTER, CROP, CLEAN), sample, seed) for load in ("LoadLateMasks", "LoadAnnotations")
    )
    if host is None:
        assert ours is None
        return
    assert (ours["inputs"] == host["inputs"]).all()
    own, other = ours["data_samples"].gt_instances, host["data_samples"].gt_instances
    areas = dict(zip(other.labels.tolist(), other.masks.areas.tolist(), strict=True))
    areas |= dict(zip(own.labels.tolist(), own.masks.areas.tolist(), strict=True))
    odd = {label: areas[label] for label in set(own.labels.tolist()) ^ set(other.labels.tolist())}
    assert all(area <= 8 for area in odd.values()), odd
    for label, mask, box in zip(own.labels.tolist(), own.masks.masks, own.bboxes.tensor.tolist(), strict=True):
        if areas[label] < 400 or label not in other.labels.tolist():
            continue
        theirs = other.masks.masks[other.labels.tolist().index(label)]
        assert (mask & theirs).sum() / (mask | theirs).sum() > 0.88
        assert box == pytest.approx(Patch.of(mask).box)


def test_mosaic_and_copy_paste_take_them(sources):
    """Transforms that work on pixels get pixels."""
    samples = [annotate(sources) for _ in range(4)]
    with DefaultScope.overwrite_default_scope("mmdet"):
        paste = TRANSFORMS.build(dict(type="CopyPaste"))
        mosaic = TRANSFORMS.build(
            dict(type="CachedMosaic", img_scale=SIZE[::-1], max_cached_images=4, random_pop=False)
        )
    made = {}
    for load in ("LoadLateMasks", "LoadAnnotations"):
        loaded = [Compose(pipeline(load).transforms[:2])(copy.deepcopy(sample)) for sample in samples]
        np.random.seed(3)
        pasted = paste(dict(copy.deepcopy(loaded[0]), mix_results=[copy.deepcopy(loaded[1])]))
        made[load] = pasted["gt_masks"].to_ndarray(), pasted["gt_bboxes_labels"]
        for sample in loaded:
            joined = mosaic(copy.deepcopy(sample))
        assert len(joined["gt_masks"]) == len(joined["gt_bboxes"]) > 0
        mosaic.results_cache.clear()
    (ours, labels), (host, host_labels) = made.values()
    assert labels.tolist() == host_labels.tolist()
    assert (ours == host).all()


def test_panoptic_maps_are_drawn_late_too(tmp_path):
    ids = np.zeros(SIZE, np.uint8)
    for number, (top, left) in enumerate([(5, 10), (40, 60), (90, 130)], start=1):
        ids[top : top + 45, left : left + 50] = number
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[..., 2] = ids  # red, as OpenCV writes it
    path = tmp_path / "ids.png"
    cv2.imwrite(str(path), colours)
    segments = [dict(id=number, category=number, is_thing=number != 2) for number in (1, 2, 3)]
    results = dict(ori_shape=SIZE, seg_map_path=str(path), segments_info=segments)
    loaded = LoadPanopticMaps(with_bbox=False, with_label=False).transform(dict(results))
    masks = loaded["gt_masks"]
    host = BitmapMasks([(ids == number).astype(np.uint8) for number in (1, 3)], *SIZE)
    assert isinstance(masks, LateMasks)
    assert np.unique(loaded["gt_seg_map"]).tolist() == [1, 2, 3, 255]
    crop = np.array([20, 10, 220, 150])
    assert (masks.resize((200, 300)).crop(crop).masks == host.resize((200, 300)).crop(crop).masks).all()
    del results["seg_map_path"]
    assert "gt_masks" not in LoadPanopticMaps(with_bbox=False, with_label=False).transform(results)


def test_real_images_crowds_included(data_root):
    root = data_root / "tiny_coco"
    found = CocoDataset(
        ann_file=str(root / "annotations/instances_train2017.json"), data_prefix=dict(img=""), pipeline=[]
    )
    crowds = 0
    for index in range(len(found)):
        sample = found.get_data_info(index)
        sample["img"] = np.zeros((sample["height"], sample["width"], 3), np.uint8)
        crowds += sum(isinstance(instance["mask"], dict) for instance in sample["instances"])
        steps = (FLIP, dict(CROP, crop_size=(300, 200)))
        ours, host = (run(pipeline(load, *steps), sample, index) for load in ("LoadLateMasks", "LoadAnnotations"))
        assert_same(ours, host)
    assert crowds > 0
