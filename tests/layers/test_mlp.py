import math

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.layers.mlp import MLP, MLPS, SwiGLU


@torch.no_grad()
def test_mlp_is_two_matrices_with_an_exact_gelu_between():
    torch.manual_seed(0)
    mlp = MLP(6, ratio=3)
    assert (mlp.fc1.weight.shape, mlp.fc2.weight.shape) == ((18, 6), (6, 18))
    tokens = torch.randn(2, 5, 6)
    hidden = tokens @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    assert_close(mlp(tokens), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


@torch.no_grad()
def test_swiglu_is_a_value_times_the_swish_of_a_gate():
    torch.manual_seed(0)
    mlp = SwiGLU(12, ratio=4)
    tokens = torch.randn(2, 5, 12)
    gate_rows, value_rows = mlp.fc1.weight[:32], mlp.fc1.weight[32:]
    gate, value = tokens @ gate_rows.T + mlp.fc1.bias[:32], tokens @ value_rows.T + mlp.fc1.bias[32:]
    hidden = gate / (1 + torch.exp(-gate)) * value
    assert_close(mlp(tokens), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


# DINOv2's sizes: two thirds of ratio · dim, rounded up to a multiple of 8; 4096 is that of its giant.
@pytest.mark.parametrize(
    ("dim", "ratio", "hidden"), [(1536, 4, 4096), (384, 4, 1024), (96, 4, 256), (100, 4, 272), (5, 2, 8)]
)
def test_hidden_channels_of_swiglu(dim, ratio, hidden):
    with torch.device("meta"):
        mlp = SwiGLU(dim, ratio)
    assert mlp.fc1.weight.shape == (2 * hidden, dim)
    assert mlp.fc2.weight.shape == (dim, hidden)


@pytest.mark.parametrize("name", MLPS)
def test_each_token_for_itself(name):
    torch.manual_seed(0)
    mlp = MLPS[name](12, 4)
    tokens = torch.randn(2, 3, 4, 12, requires_grad=True)
    mlp(tokens)[1, 2, 3].sum().backward()
    reached = tokens.grad.abs().sum(dim=-1) > 0
    assert reached.sum() == 1
    assert reached[1, 2, 3]
