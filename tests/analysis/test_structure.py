"""The parts of a backbone add up, and agree with what others count."""

import pytest
import torch
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.analysis.complexity import count_flops, count_parameters
from hybrid_dense.analysis.structure import describe_parts

BACKBONES = [*hybrid_dense.list_topologies(), "PlainResNeXt", "PlainViT"]


@pytest.mark.parametrize("topology", BACKBONES)
def test_parts_add_up_to_the_whole(topology):
    config = dict(type=topology, variant="rxnano_vit_pico", class_token=True, residual_conv=True)
    *parts, total = describe_parts(config, (96, 160))
    torch.manual_seed(0)
    backbone = MODELS.build(config).eval()
    images = torch.zeros(1, 3, 96, 160)
    with torch.no_grad():
        flops = count_flops(lambda: backbone(images))
    assert total.parameters == count_parameters(backbone) == sum(part.parameters for part in parts)
    assert total.flops == flops == sum(part.flops for part in parts)
    others = parts[-1]
    assert others.name == "others"
    assert others.parameters < 0.1 * total.parameters  # class token, table of positions, last norm
    assert others.flops == 0


@pytest.mark.parametrize("topology", BACKBONES)
def test_outputs_are_those_of_the_forward(topology):
    config = dict(type=topology, variant="rxnano_vit_pico")
    described = {part.name: part.output for part in describe_parts(config, (64, 96))}
    backbone = MODELS.build(config).eval()
    with torch.no_grad():
        maps = [tuple(level.shape[1:]) for level in backbone(torch.zeros(1, 3, 64, 96))]
    if topology == "PlainViT":
        assert [described[f"level {number}"] for number in range(1, 5)] == maps
    elif topology == "SerialResNeXtViT":
        assert [described[f"stage {number}"] for number in (1, 2, 4)] == [maps[0], maps[1], maps[3]]
        assert described["segment 1"] == (96, 4, 6)
    else:
        assert [described[f"stage {number}"] for number in range(1, 5)] == maps
    if topology == "InterleavedResNeXtViT":
        assert [described[f"segment {number}"] for number in range(1, 5)] == [
            (96, 16, 24),
            (96, 8, 12),
            (96, 4, 6),
            (96, 2, 3),
        ]


@pytest.mark.parametrize(
    ("config", "parameters", "gflops"),
    [  # counted by others for one image of 512×512: torchvision's ResNets, the plain ViT-S of ViTDet's design
        (dict(type="PlainResNeXt", variant="r50_vit_s"), 23.5e6, 42.7),
        (dict(type="PlainResNeXt", variant="rx50_vit_s"), 23.0e6, 44.2),
    ],
)
def test_known_costs(config, parameters, gflops):
    total = describe_parts(config, (512, 512))[-1]
    assert total.parameters == pytest.approx(parameters, rel=0.01)
    assert total.flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_cost_of_the_vit_is_that_of_the_formula():
    """ViT-S, 32 × 32 tokens: 12 d² multiply-adds a token and block, 2 t d for attention to t keys."""
    dim, tokens = 384, 32 * 32
    windows = describe_parts(dict(type="PlainViT", variant="r50_vit_s", window=16), (512, 512))
    segment = next(part for part in windows if part.name == "segment 2")
    linear = 3 * 12 * dim**2 * tokens
    attention = 2 * dim * tokens * (2 * 16**2 + tokens)
    assert segment.flops == 2 * (linear + attention)
