"""Predictor against the hosts' own inference on tiny stock models, and every image that it takes or refuses."""

import mmdet.apis
import mmseg.apis
import numpy as np
import PIL.Image
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from numpy.testing import assert_allclose, assert_array_equal

from hybrid_dense.inference import Predictor, SkippedImageWarning
from hybrid_dense.prediction import Prediction

CLASSES = ("disc", "square", "star")
NORMALISE = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True)
ANCHORS = dict(type="AnchorGenerator", scales=[4], ratios=[1.0], strides=[8, 16, 32])
BOX_CODER = dict(type="DeltaXYWHBBoxCoder")


def resnet18(out_indices):
    # The file does not exist: fetching pretrained weights would fail, and must not be tried where weights are given.
    init_cfg = dict(type="Pretrained", checkpoint="/nowhere/resnet18.pth")
    return dict(type="ResNet", depth=18, base_channels=16, out_indices=out_indices, init_cfg=init_cfg)


def roi_extractor(size):
    roi_layer = dict(type="RoIAlign", output_size=size, sampling_ratio=0)
    return dict(type="SingleRoIExtractor", roi_layer=roi_layer, out_channels=16, featmap_strides=[8, 16])


def mask_rcnn(num_classes: int = 3) -> dict:
    proposals = dict(nms_pre=50, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
    model = dict(
        type="MaskRCNN",
        data_preprocessor=dict(type="DetDataPreprocessor", pad_mask=True, pad_size_divisor=32, **NORMALISE),
        backbone=resnet18((1, 2, 3)),
        neck=dict(type="FPN", in_channels=[32, 64, 128], out_channels=16, num_outs=3),
        rpn_head=dict(type="RPNHead", in_channels=16, feat_channels=16, anchor_generator=ANCHORS, bbox_coder=BOX_CODER),
        roi_head=dict(
            type="StandardRoIHead",
            bbox_roi_extractor=roi_extractor(7),
            bbox_head=dict(
                type="Shared2FCBBoxHead",
                in_channels=16,
                fc_out_channels=32,
                num_classes=num_classes,
                bbox_coder=BOX_CODER,
            ),
            mask_roi_extractor=roi_extractor(14),
            mask_head=dict(
                type="FCNMaskHead", num_convs=1, in_channels=16, conv_out_channels=16, num_classes=num_classes
            ),
        ),
        train_cfg=None,
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10, mask_thr_binary=0.5),
        ),
    )
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [
        dict(type="LoadImageFromFile", backend_args=None),
        dict(type="Resize", scale=(160, 96), keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="PackDetInputs", meta_keys=keys),
    ]
    names = dict(classes=tuple(f"thing {index}" for index in range(num_classes)) if num_classes != 3 else CLASSES)
    dataset = dict(type="CocoDataset", ann_file="/nowhere/instances.json", metainfo=names, pipeline=pipeline)
    return dict(default_scope="mmdet", model=model, test_dataloader=dict(dataset=dataset))


def fcn() -> dict:
    head = dict(type="FCNHead", in_channels=128, channels=16, num_convs=1, num_classes=19)
    model = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64), **NORMALISE),
        backbone=resnet18((0, 1, 2, 3)),
        decode_head=dict(**head, norm_cfg=dict(type="SyncBN"), in_index=3),
        test_cfg=dict(mode="whole"),
    )
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(96, 64), keep_ratio=True),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ]
    dataset = dict(type="CityscapesDataset", data_root="/nowhere", pipeline=pipeline)
    return dict(default_scope="mmseg", model=model, test_dataloader=dict(dataset=dataset), test_pipeline=pipeline)


def write_weights(config: dict, path, **meta):
    """Weights of a model that sees something: random, batch norm in balance, different scores for different places."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config["default_scope"]):
        model = MODELS.build(Config(config).model)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    model.train().backbone(torch.randn(4, 3, 64, 64))
    if config["default_scope"] == "mmdet":
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=3.0)
        torch.nn.init.normal_(model.roi_head.mask_head.conv_logits.weight, std=3.0)
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return path


def picture(height=80, width=120, seed=0) -> np.ndarray:
    """uint8 RGB (h, w, 3), different in every channel, so that an exchange of channels shows."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC)) // np.uint8([1, 2, 3])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def detector_weights(tmp_path_factory):
    return write_weights(mask_rcnn(), tmp_path_factory.mktemp("weights") / "mask_rcnn.pth")


@pytest.fixture(scope="module")
def detector(detector_weights) -> Predictor:
    return Predictor(mask_rcnn(), detector_weights, device="cpu")


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory) -> Predictor:
    path = write_weights(fcn(), tmp_path_factory.mktemp("weights") / "fcn.pth")
    return Predictor(fcn(), path, device="cpu")


@pytest.fixture(scope="module")
def image_path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images") / "scene.png"
    PIL.Image.fromarray(picture()).save(path)
    return str(path)


def assert_same(left: Prediction, right: Prediction):
    assert_array_equal(left.image, right.image)
    for name in ("boxes", "scores", "labels", "masks", "label_map"):
        if getattr(left, name) is None:
            assert getattr(right, name) is None
        else:
            assert_allclose(getattr(left, name), getattr(right, name), atol=1e-4, err_msg=name)


def test_detector_equals_the_hosts_own_inference(detector, image_path):
    detector.model.cfg = Config(mask_rcnn())
    with DefaultScope.overwrite_default_scope("mmdet"):
        expected = mmdet.apis.inference_detector(detector.model, image_path).pred_instances
    prediction = detector(image_path)
    assert len(prediction) == len(expected) == 10
    assert_allclose(prediction.boxes, expected.bboxes.numpy(), atol=1e-5)
    assert_allclose(prediction.scores, expected.scores.numpy(), atol=1e-5)
    assert_array_equal(prediction.labels, expected.labels.numpy())
    assert_array_equal(prediction.masks, expected.masks.numpy())
    assert prediction.masks.any() and prediction.masks.shape == (10, 80, 120)
    assert prediction.class_names == CLASSES and prediction.path == image_path and prediction.label_map is None


def test_segmentor_equals_the_hosts_own_inference(segmentor, image_path):
    segmentor.model.cfg = Config(fcn())
    with DefaultScope.overwrite_default_scope("mmseg"):
        expected = mmseg.apis.inference_model(segmentor.model, image_path).pred_sem_seg.data[0]
    prediction = segmentor(image_path)
    assert_array_equal(prediction.label_map, expected.numpy())
    assert len(np.unique(prediction.label_map)) > 1
    assert prediction.boxes is None and prediction.masks is None
    assert prediction.class_names[:2] == ("road", "sidewalk")  # Cityscapes' own, as the config names none


@pytest.mark.parametrize("model", ["detector", "segmentor"])
def test_array_and_pil_image_equal_the_file(model, image_path, request):
    predictor = request.getfixturevalue(model)
    from_file = predictor(image_path)
    assert_array_equal(from_file.image, picture())
    assert_same(predictor(picture()), from_file)
    assert_same(predictor(PIL.Image.open(image_path)), from_file)
    assert_same(predictor(np.dstack([picture(), np.full((80, 120), 7, np.uint8)])), from_file)  # alpha is dropped


def test_gray_image_is_three_equal_channels(detector):
    gray = picture()[..., 0]
    assert_same(detector(gray), detector(np.dstack([gray] * 3)))


@pytest.fixture(scope="module")
def gray_segmentor(tmp_path_factory) -> Predictor:
    """A model of one channel, whose pipeline reads gray files."""
    config = fcn()
    config["model"]["backbone"]["in_channels"] = 1
    config["model"]["data_preprocessor"] = dict(type="SegDataPreProcessor", size=(64, 64), mean=[120.0], std=[60.0])
    config["test_pipeline"][0]["color_type"] = "grayscale"
    folder = tmp_path_factory.mktemp("gray")
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(Config(config).model)
    torch.save({"state_dict": model.state_dict()}, folder / "gray.pth")
    return Predictor(config, folder / "gray.pth", device="cpu")


def test_a_model_of_one_channel_takes_arrays_and_pil_images_as_it_takes_files(gray_segmentor, tmp_path):
    gray = picture()[..., 0]
    PIL.Image.fromarray(gray).save(tmp_path / "gray.png")
    from_file = gray_segmentor(tmp_path / "gray.png")
    assert_same(gray_segmentor(gray), from_file)
    assert_same(gray_segmentor(PIL.Image.open(tmp_path / "gray.png")), from_file)
    PIL.Image.fromarray(picture()).save(tmp_path / "colours.png")
    from_colours = gray_segmentor(tmp_path / "colours.png").image
    assert_allclose(gray_segmentor(picture()).image.astype(int), from_colours, atol=1)  # libpng rounds in its own way


def test_a_list_skips_what_pil_cannot_read(detector, tmp_path):
    PIL.Image.fromarray(picture()).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    images = [PIL.Image.open(tmp_path / "cut.png"), picture()]
    with pytest.warns(SkippedImageWarning, match="skipped: a PIL image cannot be read"):
        assert len(detector(images)) == 1


def test_what_the_model_refuses_is_named(detector, tmp_path, monkeypatch):
    PIL.Image.fromarray(picture()).save(tmp_path / "small.png")

    def refuse(_):
        raise ValueError("too small")

    monkeypatch.setattr(detector, "_prepare", refuse)
    with pytest.raises(ValueError, match=r"small\.png: too small"):
        detector(tmp_path / "small.png")
    with pytest.raises(ValueError, match="^too small"):
        detector(picture())


def test_rotated_photograph_is_turned_upright(detector, tmp_path):
    path = tmp_path / "rotated.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    PIL.Image.fromarray(picture()).save(path, quality=95, exif=exif)
    assert detector(path).image.shape == (120, 80, 3)
    from_pil = detector(PIL.Image.open(path)).image
    assert from_pil.shape == (120, 80, 3)
    assert np.abs(from_pil.astype(int) - detector(path).image).mean() < 3  # two JPEG decoders differ by rounding


def test_folder_is_sorted_and_names_and_skips_broken_images(detector, tmp_path):
    for name, seed in (("b.png", 1), ("a.JPG", 2)):
        PIL.Image.fromarray(picture(seed=seed)).convert("RGB").save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n but no picture")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "deeper").mkdir()
    PIL.Image.fromarray(picture()).save(tmp_path / "deeper" / "c.png")
    with pytest.warns(SkippedImageWarning, match=r"skipped: .*broken\.png"):
        predictions = detector(tmp_path)
    assert [prediction.path for prediction in predictions] == [str(tmp_path / "a.JPG"), str(tmp_path / "b.png")]


def test_a_list_gives_a_list_and_batches_change_nothing(detector, detector_weights):
    images = [picture(seed=0), picture(seed=1), picture(64, 64, seed=2), picture(seed=3)]
    batched = Predictor(mask_rcnn(), detector_weights, device="cpu", batch_size=2)
    one_by_one = detector(images)
    assert [p.image.shape for p in one_by_one] == [image.shape for image in images]
    for left, right in zip(batched(images), one_by_one, strict=True):
        assert_same(left, right)
    stream = detector.stream(iter(images))
    assert_same(next(stream), one_by_one[0])


def test_score_threshold(detector, detector_weights, image_path):
    everything = detector(image_path)
    threshold = float(np.median(everything.scores))
    few = Predictor(mask_rcnn(), detector_weights, device="cpu", score_threshold=threshold)(image_path)
    assert 0 < len(few) < len(everything)
    assert_same(few, everything.above(threshold))
    nothing = Predictor(mask_rcnn(), detector_weights, device="cpu", score_threshold=2.0)(image_path)
    assert len(nothing) == 0 and nothing.masks.shape == (0, 80, 120)


@pytest.mark.parametrize("config", [mask_rcnn(), fcn()], ids=["mmdet", "mmseg"])
def test_bfloat16_runs_and_stays_close(config, tmp_path):
    weights = write_weights(config, tmp_path / "weights.pth")
    exact = Predictor(config, weights, device="cpu")(picture())
    rounded = Predictor(config, weights, device="cpu", amp="bfloat16")(picture())
    if exact.boxes is None:
        assert (exact.label_map == rounded.label_map).mean() > 0.9
    else:
        assert abs(exact.scores[0] - rounded.scores[0]) < 0.1


@pytest.mark.parametrize("amp", [None, "bf16"])
@pytest.mark.parametrize("config", [mask_rcnn(), fcn()], ids=["mmdet", "mmseg"])
def test_folded_batch_norm_predicts_the_same(config, amp, tmp_path):
    weights = write_weights(config, tmp_path / "weights.pth")
    plain, folded = (Predictor(config, weights, device="cpu", amp=amp, fold=fold) for fold in (False, True))
    left = [isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in folded.model.modules()]
    assert not any(left) and plain.model.state_dict()
    wanted, found = plain(picture()), folded(picture())
    if amp is None:
        assert_same(found, wanted)
    elif wanted.boxes is None:
        assert (found.label_map == wanted.label_map).mean() > 0.9
    else:
        assert abs(found.scores[0] - wanted.scores[0]) < 0.1


def test_config_file_and_class_names_from_the_checkpoint(tmp_path, image_path):
    config = mask_rcnn()
    del config["test_dataloader"]["dataset"]["metainfo"]  # CocoDataset's own 80 names do not fit 3 classes
    Config(config).dump(tmp_path / "config.py")
    named = write_weights(config, tmp_path / "named.pth", dataset_meta=dict(classes=CLASSES))
    assert Predictor(str(tmp_path / "config.py"), named, device="cpu").class_names == CLASSES
    unnamed = write_weights(config, tmp_path / "unnamed.pth")
    assert Predictor(config, unnamed, device="cpu").class_names == ("class 0", "class 1", "class 2")


def test_wrong_class_count_names_both_numbers(tmp_path):
    weights = write_weights(mask_rcnn(5), tmp_path / "five.pth", dataset_meta=dict(classes=list("abcde")))
    with pytest.raises(ValueError, match="trained on 5 classes and the model has 3") as error:
        Predictor(mask_rcnn(), weights, device="cpu")
    assert "roi_head.bbox_head.fc_cls.weight 6×32 in the file, 4×32 in the model" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_config_is_left_as_it_was(detector_weights):
    config = Config(mask_rcnn())
    before = config.pretty_text
    Predictor(config, detector_weights, device="cpu")
    assert config.pretty_text == before


def test_without_weights_the_config_initialises_the_model(capfd):
    with pytest.raises(FileNotFoundError, match="/nowhere/resnet18.pth"):  # with weights nothing asks for it
        Predictor(mask_rcnn(), device="cpu")
    config = mask_rcnn()
    config["model"]["backbone"].pop("init_cfg")
    assert Predictor(config, device="cpu")(picture()).class_names == CLASSES
    assert "Initialized by" not in "".join(capfd.readouterr())  # mmengine's line for each parameter


def test_images_that_are_refused(detector, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such image: .*missing.jpg"):
        detector(tmp_path / "missing.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken\.jpg is not an image that can be read") as error:
        detector(broken)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no images in folder"):
        (tmp_path / "empty").mkdir()
        detector(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"uint8 RGB of shape \(h, w, 3\), got float32"):
        detector(picture().astype(np.float32))
    with pytest.raises(ValueError, match=r"got uint8 \(3, 80, 120\)"):
        detector(picture().transpose(2, 0, 1))
    with pytest.raises(ValueError, match="mode I;16"):
        detector(PIL.Image.fromarray(np.zeros((8, 8), np.uint16)))
    with pytest.raises(TypeError, match="not int"):
        detector(3)
    with pytest.raises(TypeError, match="an image is a path, a uint8 RGB array or a PIL image, not Tensor"):
        detector(torch.zeros(3, 8, 8))


def test_settings_that_are_refused(detector_weights, tmp_path):
    with pytest.raises(ValueError, match="amp 'half' is unknown; choose one of bf16, fp16, fp32 or None"):
        Predictor(mask_rcnn(), detector_weights, amp="half")
    with pytest.raises(ValueError, match="device 'tpu9' is unknown"):
        Predictor(mask_rcnn(), detector_weights, device="tpu9")
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        Predictor(mask_rcnn(), detector_weights, device="cuda:99")
    with pytest.raises(FileNotFoundError, match="no such config"):
        Predictor(tmp_path / "missing.py", detector_weights)
    with pytest.raises(ValueError, match="no test_dataloader"):
        Predictor(dict(default_scope="mmdet", model=mask_rcnn()["model"]), detector_weights, device="cpu")


class TestPrediction:
    image = np.zeros((4, 6, 3), np.uint8)

    def detection(self, **changes) -> Prediction:
        masks = np.zeros((2, 4, 6), bool)
        masks[0, 1:3, 1:5] = True
        fields = dict(boxes=[[1, 1, 5, 3], [0, 0, 2.5, 4]], scores=[0.9, 0.2], labels=[1, 0], masks=masks)
        return Prediction(self.image, **{**fields, "class_names": ("a", "b"), **changes})

    def test_above_and_len(self):
        prediction = self.detection()
        assert len(prediction) == 2 and len(prediction.above(0.5)) == 1
        assert prediction.above(0.5).masks.shape == (1, 4, 6) and len(prediction) == 2
        assert len(self.detection(scores=None).above(0.5)) == 2  # ground truth
        assert prediction.boxes.dtype == np.float32 and prediction.labels.dtype == np.int64

    def test_to_coco(self):
        from pycocotools.mask import decode

        first, second = self.detection().to_coco(7, category_ids=[11, 22])
        assert (first["image_id"], first["category_id"], second["category_id"]) == (7, 22, 11)
        assert first["bbox"] == [1, 1, 4, 2] and second["bbox"] == [0, 0, 2.5, 4]
        assert isinstance(first["segmentation"]["counts"], str)
        assert_array_equal(decode(first["segmentation"]), self.detection().masks[0])
        assert [result["category_id"] for result in self.detection(masks=None).to_coco(1)] == [2, 1]
        with pytest.raises(ValueError, match="label 1 has no category id: 1 were given"):
            self.detection().to_coco(7, category_ids=[11])
        with pytest.raises(ValueError, match="ground truth has no scores"):
            self.detection(scores=None).to_coco(7)
        with pytest.raises(ValueError, match="label map has no COCO results"):
            Prediction(self.image, label_map=np.zeros((4, 6), int)).to_coco(7)

    def test_draw(self, tmp_path):
        path = self.detection().draw(tmp_path / "new" / "picture.png")
        assert path == tmp_path / "new" / "picture.png"
        assert PIL.Image.open(path).size[0] >= 6

    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(image=np.zeros((4, 6))), "image must be a uint8 RGB array"),
            (dict(boxes=[[1, 1, 5]] * 2), r"boxes must have shape \(n, 4\) = \(2, 4\), got int64 \(2, 3\)"),
            (dict(scores=[0.5]), r"scores must have shape \(n,\) = \(2,\)"),
            (dict(labels=[0.5, 1.5]), "labels must be int64, got float64"),
            (dict(masks=np.zeros((2, 6, 4), bool)), r"masks must have shape \(n, h, w\) = \(2, 4, 6\)"),
            (dict(masks=np.ones((2, 4, 6))), "masks must be bool"),
            (dict(labels=[0, 2]), "label 2 has no name: there are 2 class names"),
            (dict(labels=[-1, 0]), "label -1 is negative"),
            (dict(labels=None), "boxes and labels go together"),
            (dict(label_map=np.zeros((4, 6), int)), "either boxes and labels, or a label_map"),
            (dict(boxes=None, labels=None, label_map=np.zeros((4, 6), int)), "a label_map stands alone"),
        ],
    )
    def test_bad_fields_are_named(self, changes, message):
        with pytest.raises(ValueError, match=message):
            image = changes.pop("image", self.image)
            fields = dict(boxes=[[0, 0, 1, 1]] * 2, scores=[0.9, 0.2], labels=[1, 0], class_names=("a", "b"))
            Prediction(image, **{**fields, **changes})

    def test_label_map_of_another_size(self):
        with pytest.raises(ValueError, match=r"label_map must be integers of shape \(h, w\) = \(4, 6\)"):
            Prediction(self.image, label_map=np.zeros((6, 4), int))


def test_what_a_pipeline_decodes_late_is_read_here(tmp_path):
    config = mask_rcnn()
    weights = write_weights(config, tmp_path / "weights.pth")
    late = mask_rcnn()
    steps = late["test_dataloader"]["dataset"]["pipeline"]
    late["custom_imports"] = dict(imports=["hybrid_dense.data.reduced_decode_mmdet"])
    steps[0], steps[1] = dict(type="LoadEncodedImage"), dict(type="DecodeResize", scale=(160, 96), keep_ratio=True)
    file = tmp_path / "picture.png"
    PIL.Image.fromarray(picture()).save(file)
    wanted, found = (Predictor(cfg, weights, device="cpu")(str(file)) for cfg in (config, late))
    assert_same(found, wanted)
