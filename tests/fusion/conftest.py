"""Two streams of one image, and rules whose weights all differ from their start."""

import pytest
import torch

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion import build_fusion

CONV, GRID = FeatureSpec(channels=32, stride=8), FeatureSpec(channels=48, stride=16)


@pytest.fixture
def streams():
    """Of an image of 56 × 104 pixels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 32, 7, 13, generator=generator), torch.randn(2, 48, 4, 7, generator=generator)


@pytest.fixture
def build():
    def call(rule, direction="both", conv=CONV, grid=GRID):
        torch.manual_seed(0)
        fusion = build_fusion(dict(type=rule, direction=direction), conv, grid).eval()
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        return fusion

    return call


@pytest.fixture
def normalise():
    """A LayerNorm2d's answer, by its definition."""

    def call(norm, features):
        centred = features - features.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]

    return call


@pytest.fixture
def convolve():
    """A 1×1 convolution's answer, by its definition."""

    def call(project, features):
        answer = torch.einsum("oc,bchw->bohw", project.weight[..., 0, 0], features)
        return answer if project.bias is None else answer + project.bias[:, None, None]

    return call
