"""The ResNeXt trunk against mmdet's, weight for weight, and its state-dict names against torchvision's."""

import mmdet.models
import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.archs import CNN_ARCHS
from hybrid_dense.trunks import ResNeXt

REFERENCES = {
    "r50": lambda: mmdet.models.ResNet(depth=50),
    "rx50": lambda: mmdet.models.ResNeXt(depth=50, groups=32, base_width=4),
    "rx101": lambda: mmdet.models.ResNeXt(depth=101, groups=32, base_width=4),
}


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
    trunk = randomise(ResNeXt(CNN_ARCHS[name])).eval()
    reference = REFERENCES[name]()
    reference.eval()  # returns None
    reference.load_state_dict(trunk.state_dict(), strict=True)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        pairs = list(zip(trunk(images), reference(images), strict=True))
    for ours, theirs in pairs:
        assert ours.std() > 1e-3  # the comparison is not one of zeros
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def batchnorm(name):
    return {f"{name}.{tensor}" for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def torchvision_names(blocks):
    """Keys of torchvision.models.resnet.ResNet(Bottleneck, blocks) without its classifier."""
    keys = {"conv1.weight"} | batchnorm("bn1")
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            for index in (1, 2, 3):
                keys |= {f"{prefix}.conv{index}.weight"} | batchnorm(f"{prefix}.bn{index}")
        keys |= {f"layer{stage}.0.downsample.0.weight"} | batchnorm(f"layer{stage}.0.downsample.1")
    return keys


@pytest.mark.parametrize("name", CNN_ARCHS)
def test_torchvision_names(name):
    with torch.device("meta"):
        trunk = ResNeXt(CNN_ARCHS[name])
    assert set(trunk.state_dict()) == torchvision_names(CNN_ARCHS[name].blocks)


# torchvision's resnext50_32x4d, resnext101_32x4d and resnet50 without their 1000-way classifier.
@pytest.mark.parametrize(("name", "parameters"), [("r50", 23_508_032), ("rx50", 22_979_904), ("rx101", 42_128_704)])
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


@pytest.mark.parametrize("name", CNN_ARCHS)
def test_feature_specs_say_what_comes_out(name):
    with torch.device("meta"):
        maps = ResNeXt(CNN_ARCHS[name])(torch.zeros(1, 3, 64, 64))
    features = CNN_ARCHS[name].features
    assert [level.shape[1] for level in maps] == [feature.channels for feature in features]
    assert [64 // level.shape[-1] for level in maps] == [feature.stride for feature in features]
