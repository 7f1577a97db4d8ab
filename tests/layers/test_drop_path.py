import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.layers.drop_path import DropPath


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_whole_samples_fall_at_the_rate_and_the_mean_stays(rate):
    torch.manual_seed(0)
    samples = 4000
    branch = torch.rand(samples, 3, 2) + 1
    dropped = DropPath(rate).train()(branch)
    kept = dropped.flatten(1).abs().sum(dim=1) > 0
    assert_close(dropped[kept], branch[kept] / (1 - rate))
    assert not dropped[~kept].any()
    # Six standard deviations of a binomial.
    assert abs(kept.float().mean() - (1 - rate)) < 6 * (rate * (1 - rate) / samples) ** 0.5


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 2), (8, 5, 2, 3)])
def test_any_number_of_dimensions(shape):
    torch.manual_seed(0)
    values = DropPath(0.5).train()(torch.ones(shape)).flatten(1)
    assert set(values.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(values.amin(dim=1), values.amax(dim=1))


def test_evaluation_and_rate_zero_pass_untouched():
    branch = torch.randn(4, 3)
    assert DropPath(0.9).eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch


def test_gradient_flows_through_kept_samples_only():
    torch.manual_seed(0)
    branch = torch.ones(64, 3, requires_grad=True)
    dropped = DropPath(0.5).train()(branch)
    dropped.sum().backward()
    assert_close(branch.grad, dropped.detach())


@pytest.mark.parametrize("rate", [1.0, -0.1, 2])
def test_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match=rf"drop path rate {rate} is not in \[0, 1\)"):
        DropPath(rate)
