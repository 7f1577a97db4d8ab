"""The weights that `new-config --pretrained` names: they are of our variants' architectures."""

import re

import pytest
import torch
from mmdet.models.backbones import ResNet, ResNeXt
from mmengine.registry import MODELS

from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS
from hybrid_dense.weights import load_pretrained
from hybrid_dense.weights.usual import CNN_SOURCES, VIT_SOURCES, usual_sources

# Width and depth of ViT-Ti, S, B and L (Dosovitskiy et al. 2021, table 1; Touvron et al. 2021, table 1).
VITS = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}


@pytest.mark.parametrize("cnn", CNN_SOURCES)
def test_a_network_of_that_name_fills_the_cnn(cnn):
    """mmdet's networks have torchvision's names and sizes."""
    family, depth, groups = re.fullmatch(r"\w+://(resnet|resnext)(\d+)(_32x4d)?(?:\.\w+)?", CNN_SOURCES[cnn]).groups()
    assert (family == "resnext") == bool(groups)
    theirs = ResNeXt(depth=int(depth), groups=32, base_width=4) if groups else ResNet(int(depth))
    backbone = MODELS.build(dict(type="PlainResNeXt", variant=f"{cnn}_vit_ti"))
    report = load_pretrained(backbone, cnn=theirs.state_dict())
    assert report.cnn.coverage == 1
    assert torch.equal(backbone.cnn.state_dict()["layer4.0.conv1.weight"], theirs.layer4[0].conv1.weight)


@pytest.mark.parametrize("vit", VIT_SOURCES)
def test_a_vit_is_of_the_size_that_its_name_says(vit):
    size = VIT_SOURCES[vit].partition("://vit_")[2].partition("_patch16_224.")[0]
    assert (VIT_ARCHS[vit].dim, VIT_ARCHS[vit].depth) == VITS[size]


def test_every_variant_has_both_or_is_refused():
    assert usual_sources("rx50_vit_s") == dict(cnn=CNN_SOURCES["rx50"], vit=VIT_SOURCES["s"])
    for cnn in CNN_ARCHS.keys() - CNN_SOURCES.keys():
        with pytest.raises(ValueError, match=f"no usual weights for {cnn} of {cnn}_vit_s; there are some for r18"):
            usual_sources(f"{cnn}_vit_s")
