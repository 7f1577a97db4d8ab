"""Folded networks against themselves before: the same outputs, and no BatchNorm is folded that must not be."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

import hybrid_dense
from hybrid_dense.channels import fill_channels
from hybrid_dense.config_file import read_config
from hybrid_dense.layers.fold import Folded, fold_batch_norm

CONFIGS = Path(__file__).parents[2] / "configs"
TOPOLOGIES = [*hybrid_dense.list_topologies(), "PlainResNeXt"]


def shake_norms(model: nn.Module) -> nn.Module:
    """Statistics and affines as a training leaves them: no two alike, none trivial."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 1.5, generator=generator)
                norm.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def check_fold(model: nn.Module, *inputs, expected: int) -> None:
    """As many BatchNorms as expected are folded, and the model still computes the same."""
    shake_norms(model)
    before = count_norms(model)
    with torch.no_grad():
        wanted = deepcopy(model)(*inputs)
        assert fold_batch_norm(model) == expected
        found = model(*inputs)
    assert count_norms(model) == before - expected
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, dict(deep_stem=True, output_stride=16, with_cp=True)], ids=["plain", "deep"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_folds_whole(topology, options):
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type=topology, variant="rxnano_vit_pico", **options))
    check_fold(backbone, torch.randn(1, 3, 64, 96), expected=count_norms(backbone))


def test_attention_in_place_of_a_convolution_keeps_its_norm():
    torch.manual_seed(0)
    config = dict(type="InterleavedResNeXtViT", variant="rxnano_vit_pico", attend_in="bottleneck")
    backbone = MODELS.build(config)
    attending = sum(not isinstance(block.conv2, nn.Conv2d) for block in backbone.cnn.layer4)
    assert attending > 0
    check_fold(backbone, torch.randn(1, 3, 64, 64), expected=count_norms(backbone) - attending)


@pytest.mark.parametrize(
    "layers",
    [
        dict(kernel_size=3, padding=1, dilation=1, groups=4),
        dict(kernel_size=3, padding=2, dilation=2, bias=True),
        dict(kernel_size=3, stride=2, padding=1, padding_mode="reflect"),
    ],
)
@pytest.mark.filterwarnings("ignore:Unnecessary conv bias")
def test_conv_modules_fold(layers):
    torch.manual_seed(0)
    module = ConvModule(8, 16, norm_cfg=dict(type="BN"), act_cfg=dict(type="SiLU"), **layers)
    check_fold(module, torch.randn(2, 8, 9, 7), expected=1)


def test_norm_without_affine_and_synchronised_norm_fold():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.SyncBatchNorm(4)]
    check_fold(nn.Sequential(*layers), torch.randn(1, 4, 8, 8), expected=2)


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ("instance/mask_rcnn_rx50_vit_s_coco_1x.py", ["rpn_head"]),
        ("detection/rtmdet_rx50_vit_s_coco_640_300e.py", ["bbox_head"]),
        ("semantic/deeplabv3plus_rx50_vit_s_voc12aug_512_80k.py", ["decode_head", "auxiliary_head"]),
        ("semantic/upernet_rx50_vit_s_voc12aug_512_80k.py", ["decode_head", "auxiliary_head"]),
    ],
    ids=["mask_rcnn", "rtmdet", "deeplabv3plus", "upernet"],
)
def test_whole_models_fold(config, heads):
    torch.manual_seed(0)
    config = read_config(CONFIGS / config)
    config.model.backbone.variant = "rxnano_vit_pico"
    with DefaultScope.overwrite_default_scope(config.default_scope):
        fill_channels(config)
        model = revert_sync_batchnorm(MODELS.build(config.model))
    # In float64: what float32 rounds off grows through a whole model, by more than the tolerance on some CPUs.
    network = Network(model, heads).double()
    check_fold(network, torch.randn(1, 3, 64, 96).double(), expected=count_norms(model))


class Network(nn.Module):
    """Backbone, neck and dense heads of a host's model, from images to the heads' maps."""

    def __init__(self, model: nn.Module, heads: list[str]):
        super().__init__()
        self.model, self.heads = model, heads

    def forward(self, images):
        features = self.model.extract_feat(images)
        return [getattr(self.model, head)(features) for head in self.heads]


class Block(nn.Module):
    """A 1×1 convolution, a BatchNorm as wide, and a forward to be chosen."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.how = how

    def forward(self, features):
        return self.how(self, features)


def also_before_the_norm(block, features):
    convolved = block.conv(features)
    return block.bn(convolved) + convolved


def only_large_maps_are_normalised(block, features):
    convolved = block.conv(features)
    return block.bn(convolved) if convolved.mean() > 1e9 else convolved


@pytest.mark.parametrize(
    "how",
    [
        lambda block, x: block.conv(block.bn(x)),  # the other way round, as in pre-activation blocks
        lambda block, x: block.bn(torch.relu(block.conv(x))),
        lambda block, x: block.bn(block.conv(x)) + block.bn(block.other(x)),
        lambda block, x: block.bn(block.conv(x)) + block.conv(x * 2),
        lambda block, x: block.bn(block.conv(x).abs()),
        also_before_the_norm,
        only_large_maps_are_normalised,
    ],
    ids=["before", "activated", "norm twice", "conv twice", "function", "read before", "depends on values"],
)
def test_what_does_not_directly_follow_stays(how):
    torch.manual_seed(0)
    check_fold(Block(how), torch.randn(1, 4, 5, 5), expected=0)


class Standardised(nn.Conv2d):
    def forward(self, features):
        weight = self.weight - self.weight.mean()
        return self._conv_forward(features, weight, self.bias)


def test_convolutions_that_change_or_are_watched_stay():
    torch.manual_seed(0)
    watched = nn.Conv2d(4, 4, 1)
    watched.register_forward_hook(lambda *_: None)
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
    spectral = nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))
    for conv in (Standardised(4, 4, 1), watched, normed, spectral):
        check_fold(nn.Sequential(conv, nn.BatchNorm2d(4)), torch.randn(1, 4, 5, 5), expected=0)


class Levels(nn.Module):
    """A head whose levels share their convolution and have a BatchNorm of their own each, as RTMDetSepBNHead."""

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(ConvModule(4, 4, 3, padding=1, norm_cfg=dict(type="BN")) for _ in range(3))
        for level in self.levels:
            level.conv = self.levels[0].conv

    def forward(self, *maps):
        return tuple(level(features) for level, features in zip(self.levels, maps, strict=True))


def test_a_convolution_shared_by_levels_is_folded_for_each():
    torch.manual_seed(0)
    check_fold(Levels(), *(torch.randn(1, 4, size, size) for size in (8, 6, 4)), expected=3)


class Normalised(nn.Module):
    def __init__(self, chain):
        super().__init__()
        self.chain, self.bn = chain, nn.BatchNorm2d(4)

    def forward(self, features):
        return self.bn(self.chain(features))


class ReadTwice(nn.Module):
    """One chain, once with a BatchNorm behind it and once without."""

    def __init__(self):
        super().__init__()
        self.chain = nn.Sequential(nn.Conv2d(4, 4, 1))
        self.normalised = Normalised(self.chain)

    def forward(self, features):
        return self.normalised(features) + self.chain(features)


def test_the_end_of_a_chain_of_two_owners_stays():
    torch.manual_seed(0)
    check_fold(ReadTwice(), torch.randn(1, 4, 5, 5), expected=0)
    check_fold(Normalised(nn.Sequential(nn.Conv2d(4, 4, 1))), torch.randn(1, 4, 5, 5), expected=1)


class OneByOne(nn.Module):
    """Calls the layers of its chain itself, and hands on what comes before the BatchNorm, as VGG trunks do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, features):
        maps = [features]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1], maps[-1]


def test_an_owner_that_looks_between_the_layers_of_a_chain_is_believed():
    torch.manual_seed(0)
    check_fold(OneByOne(), torch.randn(1, 4, 5, 5), expected=1)


def test_a_folded_model_is_for_inference_only():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        fold_batch_norm(model)
    assert fold_batch_norm(model.eval()) == 1 and isinstance(model[1], Folded)
    assert fold_batch_norm(model) == 0  # nothing is left to fold
    model.eval()
    deepcopy(model)
    with pytest.raises(RuntimeError, match="build it anew to train"):
        model.train()
    with pytest.raises(RuntimeError, match="save it before that"):
        model.state_dict()
    assert not any(parameter.requires_grad for parameter in model.parameters())
