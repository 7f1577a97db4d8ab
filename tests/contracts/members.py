"""The members of the contract suite: every topology × fusion × direction that is registered, on the nano variant."""

import itertools

import pytest
import torch
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.fusion.base import DIRECTIONS

NANO = "rxnano_vit_pico"
# A topology with two ways of working counts twice.
CONFIGS = {name: dict(type=name) for name in hybrid_dense.list_topologies()}
CONFIGS["Interleaved-bottleneck"] = dict(type="InterleavedResNeXtViT", attend_in="bottleneck")
TOPOLOGIES = list(CONFIGS)
MEMBERS = list(itertools.product(TOPOLOGIES, hybrid_dense.list_fusions(), DIRECTIONS))

every_member = pytest.mark.parametrize(("topology", "rule", "direction"), MEMBERS, ids=map("-".join, MEMBERS))
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES)


def build(topology, rule="GatedFusion", direction="both", seed=0, **options):
    torch.manual_seed(seed)
    fusion = dict(type=rule, direction=direction)
    return MODELS.build(dict(dict(CONFIGS[topology], variant=NANO, fusion=fusion), **options))


def draw_images(batch=2, size=(64, 64), channels=3):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def perturb(backbone, scale=0.2):
    """Move everything that starts as zero or one, so that streams mix and a forgotten tensor would be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in backbone.fusions.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
        for name, buffer in backbone.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=0.1)
            if name.endswith("running_var"):
                buffer.add_(torch.rand(buffer.shape, generator=generator), alpha=0.2)
    return backbone
