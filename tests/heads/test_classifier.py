"""A classifier averages the last map; its losses and answers are those of its logits."""

import math

import pytest
import torch
from mmengine.optim import OptimWrapper

from hybrid_dense.engine.precision import autocast_modules
from hybrid_dense.heads import ImageClassifier


def classifier(**options) -> ImageClassifier:
    torch.manual_seed(0)
    backbone = dict(type="PlainResNeXt", variant="rxnano_vit_pico")
    return ImageClassifier(backbone, in_channels=512, num_classes=5, **options)


def test_logits_are_those_of_the_mean_of_the_last_map():
    model = classifier().eval()
    images = torch.randn(2, 3, 64, 96)
    last = model.backbone(images)[-1]
    mean = last.reshape(2, 512, -1).sum(dim=2) / (2 * 3)
    torch.testing.assert_close(model(images), mean @ model.head.weight.T + model.head.bias)


def test_the_loss_is_the_cross_entropy_with_smoothed_targets():
    model = classifier(label_smoothing=0.2).eval()
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 4, 2])
    probabilities = model(images).softmax(dim=1).double()
    wanted = 0.0
    for row, label in zip(probabilities, labels.tolist(), strict=True):
        targets = [0.2 / 5 + (0.8 if index == label else 0) for index in range(5)]
        wanted -= sum(target * math.log(value) for target, value in zip(targets, row.tolist(), strict=True)) / 3
    assert model(images, labels, mode="loss")["loss"].item() == pytest.approx(wanted, rel=1e-5)


def test_answers_name_the_likeliest_class():
    model = classifier().eval()
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 4, 2])
    answers = model(images, labels, mode="predict")
    logits = model(images)
    assert [answer["pred_label"] for answer in answers] == [
        max(range(5), key=row.__getitem__) for row in logits.tolist()
    ]
    assert [answer["gt_label"] for answer in answers] == [0, 4, 2]
    assert all(answer["scores"].sum().item() == pytest.approx(1) for answer in answers)
    assert "gt_label" not in model(images, mode="predict")[0]


def test_it_learns_what_it_is_shown():
    model = classifier(
        data_preprocessor=dict(type="BatchImages", mean=[128.0] * 3, std=[64.0] * 3, sizes=[32], shift=0)
    ).train()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=2e-3))
    colours = torch.randint(256, (5, 3, 1, 1), dtype=torch.uint8)
    batch = dict(inputs=colours.expand(5, 3, 32, 32).contiguous(), labels=torch.arange(5))
    losses = [model.train_step(batch, optimizer)["loss"].item() for _ in range(25)]
    assert losses[-1] < 0.2 < losses[0]


def test_backbone_and_head_compute_in_half_precision_when_asked():
    assert autocast_modules(classifier()) == ["backbone", "head"]


def test_a_smoothing_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="label_smoothing 1.5"):
        classifier(label_smoothing=1.5)
