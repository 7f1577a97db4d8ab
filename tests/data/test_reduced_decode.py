"""Photos decoded at a part of their size, against the host's loading and resizing of the whole photo."""

import cv2
import numpy as np
import pytest
from broken_folder import EMPTY, PNG_NAMED_JPG, TRUNCATED, write_broken
from mmcv.transforms import Compose
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from hybrid_dense.data import reduced_decode_mmdet
from hybrid_dense.data.tolerant import TolerantPipeline

META = ("ori_shape", "img_shape", "scale_factor")
ANNOTATE = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
PACK = dict(type="PackDetInputs", meta_keys=META)


def photo(width, height):
    """Soft shapes, as photos have more of than of noise; uint8 BGR."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(params=["OpenCV", "simplejpeg"])
def decoder(request, monkeypatch):
    """Every test by both decoders; the reductions that were decoded are noted."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
    else:
        monkeypatch.setattr(reduced_decode_mmdet, "simplejpeg", None)
    seen, decode = [], reduced_decode_mmdet.decode

    def noted(jpeg, size, path):
        image = decode(jpeg, size, path)
        seen.append(round(jpeg.size[0] / image.shape[1]))
        return image

    monkeypatch.setattr(reduced_decode_mmdet, "decode", noted)
    return seen


def compose(*steps):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Compose([TRANSFORMS.build(step) for step in steps])


def host(**resize):
    return compose(dict(type="LoadImageFromFile"), ANNOTATE, dict(type="Resize", **resize), PACK)


def reduced(**resize):
    return compose(dict(type="LoadEncodedImage"), ANNOTATE, dict(type="DecodeResize", **resize), PACK)


def sample(path, width, height):
    corners = [0.1 * width, 0.2 * height, 0.9 * width, 0.3 * height, 0.4 * width, 0.8 * height]
    box = [0.1 * width, 0.2 * height, 0.9 * width, 0.8 * height]
    return dict(img_path=str(path), instances=[dict(bbox=box, bbox_label=1, mask=[corners], ignore_flag=0)])


def psnr(image, other):
    error = np.mean((image.numpy().astype(float) - other.numpy().astype(float)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def assert_same_but_for_pixels(ours, theirs):
    assert ours["inputs"].shape == theirs["inputs"].shape
    own, other = ours["data_samples"], theirs["data_samples"]
    assert own.metainfo == other.metainfo
    assert own.gt_instances.bboxes.tensor.tolist() == other.gt_instances.bboxes.tensor.tolist()
    assert own.gt_instances.labels.tolist() == other.gt_instances.labels.tolist()
    assert own.gt_instances.masks.masks.tolist() == other.gt_instances.masks.masks.tolist()


@pytest.mark.parametrize(
    ("size", "resize", "reduction"),
    [
        ((800, 600), dict(scale=(400, 300), keep_ratio=True), 2),
        ((801, 603), dict(scale=(400, 300), keep_ratio=True), 2),
        ((799, 601), dict(scale=(400, 301), keep_ratio=False), 1),
        ((803, 601), dict(scale=(250, 120), keep_ratio=True), 4),
        ((601, 803), dict(scale=(250, 120), keep_ratio=True), 4),
        ((800, 600), dict(scale=(90, 70)), 8),
        ((800, 600), dict(scale=(20, 20)), 8),
        ((800, 600), dict(scale=(500, 250), keep_ratio=True), 2),
        ((320, 240), dict(scale=(640, 480), keep_ratio=True), 1),
    ],
)
def test_only_pixels_differ_and_they_hardly(tmp_path, decoder, size, resize, reduction):
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), photo(*size))
    ours, theirs = reduced(**resize)(sample(path, *size)), host(**resize)(sample(path, *size))
    assert decoder == [reduction]
    assert_same_but_for_pixels(ours, theirs)
    assert psnr(ours["inputs"], theirs["inputs"]) > (60 if reduction == 1 else 33)
    assert reduction > 1 or (ours["inputs"] == theirs["inputs"]).all()


@pytest.mark.parametrize("orientation", range(10))
def test_photos_are_turned_upright_as_by_the_host(tmp_path, decoder, orientation):
    path, exif = tmp_path / "photo.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(800, 480)).save(path, exif=exif, quality=95)
    resize = dict(scale=(200, 190), keep_ratio=True)
    ours, theirs = reduced(**resize)(sample(path, 480, 480)), host(**resize)(sample(path, 480, 480))
    assert decoder == [4]
    assert_same_but_for_pixels(ours, theirs)
    assert psnr(ours["inputs"], theirs["inputs"]) > 33


def test_grey_photos_get_three_channels(tmp_path, decoder):
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo(400, 300)).convert("L").save(path)
    resize = dict(scale=(100, 75), keep_ratio=True)
    ours, theirs = reduced(**resize)(sample(path, 400, 300)), host(**resize)(sample(path, 400, 300))
    assert_same_but_for_pixels(ours, theirs)
    assert psnr(ours["inputs"], theirs["inputs"]) > 33


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_other_formats_are_the_hosts(tmp_path, suffix):
    path, resize = tmp_path / f"photo{suffix}", dict(scale=(100, 75), keep_ratio=True)
    cv2.imwrite(str(path), photo(400, 300))
    ours, theirs = reduced(**resize)(sample(path, 400, 300)), host(**resize)(sample(path, 400, 300))
    assert_same_but_for_pixels(ours, theirs)
    assert (ours["inputs"] == theirs["inputs"]).all()


def test_the_scale_may_be_drawn(tmp_path, decoder):
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), photo(800, 600))
    draw = dict(type="RandomResize", scale=(800, 600), ratio_range=(0.1, 0.9), keep_ratio=True)
    ours = compose(dict(type="LoadEncodedImage"), ANNOTATE, dict(draw, resize_type="DecodeResize"), PACK)
    theirs = compose(dict(type="LoadImageFromFile"), ANNOTATE, draw, PACK)
    for seed in range(6):
        made = []
        for pipeline in (ours, theirs):
            np.random.seed(seed)
            made.append(pipeline(sample(path, 800, 600)))
        assert_same_but_for_pixels(*made)
    assert {1, 2} <= set(decoder)


def test_an_image_in_memory_is_resized_as_ever():
    image, resize = photo(400, 300), dict(scale=(100, 75), keep_ratio=True)
    with DefaultScope.overwrite_default_scope("mmdet"):
        ours, theirs = (TRANSFORMS.build(dict(type=name, **resize)) for name in ("DecodeResize", "Resize"))
    assert (ours(dict(img=image))["img"] == theirs(dict(img=image))["img"]).all()


def test_broken_files_are_skipped_as_ever(tmp_path, decoder):
    folder = write_broken(tmp_path / "data") / "train"
    names = [TRUNCATED, EMPTY, PNG_NAMED_JPG, "nowhere.jpg"]
    steps = compose(dict(type="LoadEncodedImage"), dict(type="DecodeResize", scale=(32, 32)))
    pipeline = TolerantPipeline(steps, len(names), 1)
    made = [pipeline({"img_path": str(folder / name), "sample_idx": index}) for index, name in enumerate(names)]
    assert [sample is None for sample in made] == [True, True, False, True]
    assert pipeline.broken.tolist() == [True, True, False, True]
