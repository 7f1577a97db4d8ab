import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hybrid_dense.layers.residual_conv import ResidualConv


def normalised(features, norm):
    mean, variance = features.mean(dim=1, keepdim=True), features.var(dim=1, keepdim=True, unbiased=False)
    return (features - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def perturbed():
    torch.manual_seed(0)
    block = ResidualConv(16)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return block


def test_starts_as_the_identity():
    torch.manual_seed(0)
    grid = torch.randn(2, 16, 5, 7)
    assert torch.equal(ResidualConv(16)(grid), grid)


@torch.no_grad()
def test_three_convolutions_each_with_a_norm_beside_a_shortcut():
    block = perturbed()
    assert block.conv2.weight.shape == (8, 8, 3, 3)
    grid = torch.randn(2, 16, 5, 7)
    hidden = F.gelu(normalised(F.conv2d(grid, block.conv1.weight), block.norm1))
    hidden = F.gelu(normalised(F.conv2d(hidden, block.conv2.weight, padding=1), block.norm2))
    expected = grid + normalised(F.conv2d(hidden, block.conv3.weight), block.norm3)
    assert_close(block(grid), expected, rtol=1e-5, atol=1e-5)


def test_leaves_the_start_within_two_steps():
    """At the start the gradient reaches the last norm; after one step it reaches everything."""
    torch.manual_seed(0)
    block, grid = ResidualConv(16), torch.randn(2, 16, 5, 7)
    target = torch.randn(2, 16, 5, 7)
    F.mse_loss(block(grid), target).backward()
    assert block.norm3.weight.grad.abs().min() > 0
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.sub_(parameter.grad)
    block.zero_grad()
    F.mse_loss(block(grid), target).backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_sees_one_token_around():
    grid = torch.randn(1, 16, 7, 7, requires_grad=True)
    perturbed()(grid)[0, :, 3, 3].square().sum().backward()
    reached = grid.grad[0].abs().sum(dim=0) > 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(reached, expected)
