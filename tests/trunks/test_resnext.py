"""The ResNeXt trunk against mmdet's and mmseg's, weight for weight, and its state-dict names against torchvision's."""

import copy

import mmdet.models
import mmseg.models
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from hybrid_dense.archs import CNN_ARCHS, FeatureSpec
from hybrid_dense.layers.recompute import recompute
from hybrid_dense.trunks import ResNeXt

REFERENCES = {
    "r18": lambda: mmdet.models.ResNet(depth=18),
    "r34": lambda: mmdet.models.ResNet(depth=34),
    "r50": lambda: mmdet.models.ResNet(depth=50),
    "rx50": lambda: mmdet.models.ResNeXt(depth=50, groups=32, base_width=4),
    "rx101": lambda: mmdet.models.ResNeXt(depth=101, groups=32, base_width=4),
}
# mmseg's DeepLab backbones; mmdet's would dilate the first block of a stage as well.
DILATED_REFERENCES = {
    "r50": lambda **options: mmseg.models.ResNet(depth=50, contract_dilation=True, **options),
    "rx50": lambda **options: mmseg.models.ResNeXt(
        depth=50, groups=32, base_width=4, contract_dilation=True, **options
    ),
}
DILATIONS = {
    8: dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    16: dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
}
NANO = CNN_ARCHS["rxnano"]


def randomise(trunk):
    """Every tensor differs from its start, batch statistics too: equality then says something about each of them."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in trunk.state_dict().items():
        if tensor.dim() == 1:  # BatchNorm; scales near one half keep 100 layers in range
            low, span = (-0.2, 0.4) if name.endswith(("bias", "running_mean")) else (0.5, 0.5)
            tensor.copy_(low + span * torch.rand(tensor.shape, generator=generator))
    return trunk


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("size", [(64, 96), (67, 33)], ids=["even", "odd"])
def test_equals_mmdet(name, size):
    torch.manual_seed(0)
    assert_equal(ResNeXt(CNN_ARCHS[name]), REFERENCES[name](), torch.randn(2, 3, *size))


@pytest.mark.parametrize("name", DILATED_REFERENCES)
@pytest.mark.parametrize("size", [(64, 96), (67, 33)], ids=["even", "odd"])
@pytest.mark.parametrize("output_stride", DILATIONS)
def test_dilated_stages_equal_those_of_mmseg(name, size, output_stride):
    torch.manual_seed(0)
    trunk = ResNeXt(CNN_ARCHS[name], output_stride=output_stride)
    reference = DILATED_REFERENCES[name](**DILATIONS[output_stride])
    maps = assert_equal(trunk, reference, torch.randn(1, 3, *size))
    assert [tuple(level.shape[-2:]) for level in maps] == [
        tuple(-(-side // min(stride, output_stride)) for side in size) for stride in (4, 8, 16, 32)
    ]


def assert_equal(trunk, reference, images):
    randomise(trunk).eval()
    reference.load_state_dict(trunk.state_dict(), strict=True)
    reference.eval()  # returns None
    with torch.no_grad():
        maps = trunk(images)
        for ours, theirs in zip(maps, reference(images), strict=True):
            assert ours.std() > 1e-3  # the comparison is not one of zeros
            assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    return maps


@torch.no_grad()
@pytest.mark.parametrize("name", ["rx26", "r18"])
def test_dilated_stages_see_what_strided_ones_saw(name):
    """At every second place a dilated trunk computes what the same weights compute with a stride."""
    torch.manual_seed(0)
    strided = randomise(ResNeXt(CNN_ARCHS[name])).eval()
    images = torch.randn(1, 3, 128, 160)
    for output_stride in DILATIONS:
        dilated = ResNeXt(CNN_ARCHS[name], output_stride=output_stride).eval()
        dilated.load_state_dict(strided.state_dict())
        for stride, ours, theirs in zip((4, 8, 16, 32), dilated(images), strided(images), strict=True):
            step = max(1, stride // output_stride)
            assert_close(ours[..., ::step, ::step], theirs, rtol=1e-4, atol=1e-5)


def batchnorm(name):
    return {f"{name}.{tensor}" for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def torchvision_names(arch):
    """Keys of torchvision.models.resnet.ResNet(Bottleneck or BasicBlock, blocks) without its classifier."""
    keys = {"conv1.weight"} | batchnorm("bn1")
    convolutions = (1, 2, 3) if arch.expansion == 4 else (1, 2)
    for stage, count in enumerate(arch.blocks, start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            for index in convolutions:
                keys |= {f"{prefix}.conv{index}.weight"} | batchnorm(f"{prefix}.bn{index}")
        if stage > 1 or arch.expansion > 1:
            keys |= {f"layer{stage}.0.downsample.0.weight"} | batchnorm(f"layer{stage}.0.downsample.1")
    return keys


@pytest.mark.parametrize("name", CNN_ARCHS)
def test_torchvision_names(name):
    with torch.device("meta"):
        trunk = ResNeXt(CNN_ARCHS[name])
    assert set(trunk.state_dict()) == torchvision_names(CNN_ARCHS[name])


# torchvision's networks without their 1000-way classifier.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("r18", 11_176_512), ("r34", 21_284_672), ("r50", 23_508_032), ("rx50", 22_979_904), ("rx101", 42_128_704)],
)
def test_parameter_count(name, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ResNeXt(CNN_ARCHS[name]).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "shape"),
    [("rx50", (128, 4, 3, 3)), ("r50", (64, 64, 3, 3)), ("rx26", (128, 4, 3, 3)), ("rxnano", (32, 4, 3, 3))],
)
def test_shape_of_the_first_grouped_convolution(name, shape):
    with torch.device("meta"):
        assert ResNeXt(CNN_ARCHS[name]).layer1[0].conv2.weight.shape == shape


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", CNN_ARCHS)
def test_feature_specs_say_what_comes_out(name, output_stride):
    with torch.device("meta"):
        trunk = ResNeXt(CNN_ARCHS[name], output_stride=output_stride)
        maps = trunk(torch.zeros(1, 3, 64, 64))
    assert trunk.features == tuple(FeatureSpec(level.shape[1], 64 // level.shape[-1]) for level in maps)
    native = CNN_ARCHS[name].features
    assert [feature.channels for feature in trunk.features] == [feature.channels for feature in native]
    assert [feature.stride for feature in trunk.features] == [min(stride, output_stride) for stride in (4, 8, 16, 32)]


@torch.no_grad()
def test_parts_called_one_by_one():
    torch.manual_seed(0)
    trunk = randomise(ResNeXt(NANO)).eval()
    features = trunk.stem(torch.ones(2, 3, 66, 90))
    assert features.shape == (2, 16, 17, 23)
    for stage, expected in zip(trunk.stages, trunk(torch.ones(2, 3, 66, 90)), strict=True):
        features = stage(features)
        assert torch.equal(features, expected)


def test_other_images_than_colour():
    with torch.device("meta"):
        for deep_stem in (False, True):
            trunk = ResNeXt(NANO, in_channels=5, deep_stem=deep_stem)
            assert trunk(torch.zeros(1, 5, 64, 64))[3].shape == (1, 512, 2, 2)


# timm's resnet50d stem; torchvision's 7×7 has 9 408 parameters.
def test_deep_stem_names_and_parameters():
    with torch.device("meta"):
        plain, deep = (ResNeXt(CNN_ARCHS["rx50"], deep_stem=deep_stem) for deep_stem in (False, True))
    stem = {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"} | batchnorm("conv1.1") | batchnorm("conv1.4")
    assert set(deep.state_dict()) == set(plain.state_dict()) - {"conv1.weight"} | stem
    parameters = [sum(parameter.numel() for parameter in trunk.parameters()) for trunk in (plain, deep)]
    assert parameters[1] - parameters[0] == 27 * 32 + 64 + 9 * 32 * 32 + 64 + 9 * 32 * 64 - 9_408


@pytest.mark.parametrize("size", [(64, 96), (67, 33)])
@torch.no_grad()
def test_deep_stem_is_three_convolutions(size):
    torch.manual_seed(0)
    trunk = randomise(ResNeXt(NANO, deep_stem=True)).eval()
    state = trunk.state_dict()

    def normalised(features, name):
        mean, var, weight, bias = (
            state[f"{name}.{tensor}"] for tensor in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(features, mean, var, weight, bias))

    images = torch.randn(2, 3, *size)
    features = normalised(F.conv2d(images, state["conv1.0.weight"], stride=2, padding=1), "conv1.1")
    features = normalised(F.conv2d(features, state["conv1.3.weight"], padding=1), "conv1.4")
    features = normalised(F.conv2d(features, state["conv1.6.weight"], padding=1), "bn1")
    assert_close(trunk.stem(images), F.max_pool2d(features, 3, 2, 1))
    assert trunk.stem(images).shape == (2, 16, -(-size[0] // 4), -(-size[1] // 4))


def train_once(trunk):
    before = copy.deepcopy(trunk.state_dict())
    torch.manual_seed(1)
    maps = trunk(torch.randn(2, 3, 64, 64) + 1)
    sum(level.square().mean() for level in maps).backward()
    return before, trunk.state_dict()


def stage_of(name):
    return int(name[5]) if name.startswith("layer") else 0


@pytest.mark.parametrize("deep_stem", [False, True])
@pytest.mark.parametrize("frozen", [-1, 0, 1, 3, 4])
def test_frozen_stages_get_no_gradients_and_keep_their_statistics(frozen, deep_stem):
    torch.manual_seed(0)
    trunk = ResNeXt(NANO, frozen_stages=frozen, deep_stem=deep_stem).train()
    for name, parameter in trunk.named_parameters():
        assert parameter.requires_grad == (stage_of(name) > frozen), name
    if frozen == 4:
        before, after = copy.deepcopy(trunk.state_dict()), trunk.state_dict()
        trunk(torch.randn(2, 3, 64, 64))
    else:
        before, after = train_once(trunk)
    for name, parameter in trunk.named_parameters():
        assert (parameter.grad is not None) == (stage_of(name) > frozen), name
    for name, tensor in after.items():
        if "running" in name or "tracked" in name:
            assert torch.equal(tensor, before[name]) == (stage_of(name) <= frozen), name


def test_frozen_stages_compute_as_in_evaluation():
    torch.manual_seed(0)
    trunk = randomise(ResNeXt(NANO, frozen_stages=2))
    images = torch.randn(2, 3, 64, 64)
    trained, evaluated = trunk.train()(images), trunk.eval()(images)
    assert torch.equal(trained[1], evaluated[1])
    assert not torch.allclose(trained[2], evaluated[2])


def test_norm_eval_keeps_all_statistics_and_trains_all_weights():
    torch.manual_seed(0)
    trunk = ResNeXt(NANO, norm_eval=True).train()
    before, after = train_once(trunk)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    for name, parameter in trunk.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert trunk.training
    assert trunk.layer1.training


@pytest.mark.parametrize("options", [dict(norm_eval=True), dict(frozen_stages=1)])
def test_a_fresh_trunk_is_frozen_already(options):
    trunk = ResNeXt(NANO, **options)
    assert not trunk.bn1.training
    assert not trunk.layer1[0].bn3.training


def test_training_and_evaluation_can_be_switched():
    trunk = ResNeXt(NANO, frozen_stages=1, norm_eval=False)
    for _ in range(2):
        assert trunk.train() is trunk
        modes = {module.training for module in trunk.layer2.modules() if isinstance(module, nn.BatchNorm2d)}
        assert modes == {True}
        assert not trunk.layer1[0].bn1.training
        assert trunk.eval() is trunk
        assert not any(module.training for module in trunk.modules())


@pytest.mark.parametrize(
    "options", [dict(), dict(frozen_stages=1), dict(norm_eval=True), dict(output_stride=8)], ids=str
)
def test_recomputed_blocks_change_nothing(options):
    torch.manual_seed(0)
    plain = ResNeXt(NANO, **options).train()
    recomputed = copy.deepcopy(plain)
    for stage in recomputed.stages:
        for block in stage:
            recompute(block)
    for _ in range(2):
        after = [train_once(trunk)[1] for trunk in (plain, recomputed)]
    for name, tensor in after[0].items():
        assert torch.equal(after[1][name], tensor), name
    for ours, theirs in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad)


def test_nothing_is_frozen_by_default():
    trunk = ResNeXt(NANO).train()
    assert all(module.training for module in trunk.modules())
    before, after = train_once(trunk)
    for name, parameter in trunk.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert not any(torch.equal(tensor, before[name]) for name, tensor in after.items() if "running" in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(output_stride=4), "output_stride 4 is not one of 8, 16, 32"),
        (dict(output_stride=None), "output_stride None is not one of 8, 16, 32"),
        (dict(frozen_stages=5), "frozen_stages 5 is not -1 (none), 0 (stem) or a stage up to 4"),
        (dict(frozen_stages=-2), "frozen_stages -2 is not -1 (none), 0 (stem) or a stage up to 4"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError) as error:
        ResNeXt(NANO, **options)
    assert str(error.value) == message
