"""Batched sliding windows beside mmseg's own, one at a time."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS

from hybrid_dense.evaluation import register_host_metrics

CLASSES = 5


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_host_metrics("mmseg")


def build(kind: str, **test_cfg):
    """A small segmentor with batch norm out of balance and random heads, in evaluation; always the same weights."""
    torch.manual_seed(0)
    config = dict(
        type=kind,
        backbone=dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=dict(type="GatedFusion")),
        decode_head=dict(
            type="FCNHead", in_channels=512, in_index=3, channels=16, num_convs=1, num_classes=CLASSES,
            norm_cfg=dict(type="BN"), align_corners=False,
        ),
        test_cfg=dict(mode="slide", **test_cfg),
    )  # fmt: skip
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(ConfigDict(config))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    return model.eval()


def infer(model, images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    metas = [dict(ori_shape=(height, width), img_shape=(height, width), pad_shape=(height, width), n=n) for n in (1, 2)]
    with torch.no_grad():
        return model.inference(images, metas[: len(images)])


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize(
    ("size", "images"),
    [((97, 131), 2), ((64, 64), 1), ((50, 140), 2), ((40, 45), 2)],
    ids=["odd", "one window", "lower than a window", "smaller than a window"],
)
def test_logits_are_those_of_the_host(size, images, batch):
    windows = dict(crop_size=(64, 64), stride=(42, 40))
    pixels = torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = infer(build("EncoderDecoder", **windows), pixels)
    found = infer(build("SlidingEncoderDecoder", **windows, batch=batch), pixels)
    assert found.shape == (images, CLASSES, *size) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("options", "passes"), [(dict(batch=5), [5, 5, 2]), (dict(), [4, 4, 4])])
def test_no_more_windows_at_once_than_asked_for(options, passes):
    """Two images of 2 × 3 windows each."""
    model = build("SlidingEncoderDecoder", crop_size=(64, 64), stride=(40, 40), **options)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    infer(model, torch.randn(2, 3, 97, 131))
    assert seen == [(count, 3, 64, 64) for count in passes]


def test_each_window_keeps_the_words_of_its_image():
    """Heads read the metas of their windows; those of the caller stay as they are."""
    model = build("SlidingEncoderDecoder", crop_size=(64, 64), stride=(64, 64), batch=3)
    metas = [dict(ori_shape=(64, 128), img_shape=(64, 128), pad_shape=(64, 128), n=n) for n in (1, 2)]
    seen = []
    predict = model.decode_head.predict

    def watch(maps, metas, test_cfg):
        seen.append([meta["n"] for meta in metas])
        return predict(maps, metas, test_cfg)

    model.decode_head.predict = watch
    with torch.no_grad():
        model.inference(torch.randn(2, 3, 64, 128), metas)
    assert seen == [[1, 1, 2], [2]]
    assert [meta["img_shape"] for meta in metas] == [(64, 128)] * 2


def test_whole_images_go_the_hosts_way():
    model = build("SlidingEncoderDecoder", crop_size=(64, 64), stride=(40, 40))
    model.test_cfg.mode = "whole"
    pixels = torch.randn(1, 3, 97, 131)
    host = build("EncoderDecoder", crop_size=(64, 64), stride=(40, 40))
    host.test_cfg.mode = "whole"
    torch.testing.assert_close(infer(model, pixels), infer(host, pixels))
    assert isinstance(model, EncoderDecoder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(crop_size=(64, 64), stride=(40, 40), batch=0), "batch=0 is no number of windows"),
        (
            dict(crop_size=(64, 64), stride=(40, 65)),
            r"stride \(40, 65\) is not between 1 and the windows' sides \(64, 64\)",
        ),
    ],
)
def test_wrong_options_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        build("SlidingEncoderDecoder", **options)
    assert "\n" not in str(caught.value).split("`: ")[-1]
