"""The learning-rate sweep, on a quadratic bowl whose largest stable rate is known."""

import copy
import math

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from hybrid_dense.engine.find_lr import Sweep, smooth, sweep

STIFFNESS = 4.0


class Bowl(BaseModel):
    """loss = STIFFNESS/2 · |w|²: gradient descent converges below a rate of 2/STIFFNESS and diverges above it."""

    def __init__(self, breaks_above=math.inf):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.still = nn.Parameter(torch.ones(8))
        self.register_buffer("steps", torch.zeros(()))
        self.breaks_above = breaks_above

    def forward(self, inputs, data_samples=None, mode="tensor"):
        self.steps += 1
        if not self.weight.abs().max() < self.breaks_above:
            raise ValueError("matrix contains invalid numeric entries")
        return dict(loss=STIFFNESS / 2 * self.weight.pow(2).sum() + 0 * self.still.sum())


@pytest.fixture
def model():
    return Bowl().train()


def wrap(model, momentum=0.0, **options):
    groups = [dict(params=[model.weight]), dict(params=[model.still], lr=0.05)]
    return OptimWrapper(torch.optim.SGD(groups, lr=0.5, momentum=momentum), **options)


class Loader(list):
    sampler = None


LOADER = Loader([dict(inputs=torch.zeros(1))] * 3)  # shorter than a sweep


def test_the_rate_rises_exponentially_until_the_loss_explodes(model):
    found = sweep(model, wrap(model), LOADER, low=1e-4, high=100, steps=80)
    assert found.exploded and len(found.rates) < 80
    ratios = np.diff(np.log(found.rates))
    assert found.rates[0] == 1e-4 and ratios == pytest.approx(np.full(len(ratios), math.log(1e6) / 79))
    assert found.rates[-1] > 2 / STIFFNESS
    assert found.losses[0] == STIFFNESS / 2 * 8
    # Between no movement at all and divergence.
    assert 1e-3 < found.steepest < found.rates[int(np.argmin(found.smoothed))] < 4 / STIFFNESS
    assert found.tenth == found.rates[int(np.argmin(found.smoothed))] / 10


def test_nothing_is_different_afterwards(model):
    wrapper = wrap(model, momentum=0.9)
    model.train_step(LOADER[0], wrapper)  # so that the optimizer has a state
    state, optimizer = copy.deepcopy(model.state_dict()), copy.deepcopy(wrapper.optimizer.state_dict())
    sweep(model, wrapper, LOADER, low=1e-4, high=10, steps=40)
    after = wrapper.optimizer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert after["param_groups"] == optimizer["param_groups"]
    assert torch.equal(after["state"][0]["momentum_buffer"], optimizer["state"][0]["momentum_buffer"])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loader_without_a_batch_is_named(model):
    with pytest.raises(ValueError, match="smaller than one batch"):
        sweep(model, wrap(model), Loader(), low=1e-4, high=1, steps=30)


def test_groups_keep_their_share(model):
    wrapper, seen = wrap(model), []
    step = wrapper.optimizer.step
    wrapper.optimizer.step = lambda: (seen.append([g["lr"] for g in wrapper.optimizer.param_groups]), step())
    found = sweep(model, wrapper, LOADER, low=1e-4, high=0.1, steps=20)
    assert not found.exploded
    assert [rates[0] for rates in seen] == list(found.rates)
    assert [rates[1] / rates[0] for rates in seen] == pytest.approx([0.1] * 20)


def test_accumulated_batches_share_a_rate(model):
    steps = []
    wrapper = wrap(model, accumulative_counts=3)
    step = wrapper.optimizer.step
    wrapper.optimizer.step = lambda: (steps.append(None), step())
    batches = []
    train_step = model.train_step
    model.train_step = lambda *args, **kwargs: batches.append(None) or train_step(*args, **kwargs)
    found = sweep(model, wrapper, LOADER, low=1e-4, high=0.1, steps=20)
    assert (len(steps), len(batches), len(found.rates)) == (20, 60, 20)


class Matcher(Bowl):
    """Raises at numbers that are not finite, as the matchers of query-based detectors do."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if not self.weight.isfinite().all():
            raise ValueError("matrix contains invalid numeric entries")
        loss = super().forward(inputs)["loss"]
        # The gradient overflows before the loss has grown.
        return dict(loss=loss.clamp(max=20) + (loss - loss.detach()) * (1e38 if loss > 17 else 1))


def test_an_error_at_broken_weights_is_the_explosion():
    model = Matcher().train()
    found = sweep(model, wrap(model), LOADER, low=1e-3, high=1e6, steps=30)
    assert found.exploded and len(found.rates) >= 10


def test_an_error_at_sound_weights_is_an_error():
    model = Bowl(breaks_above=50).train()
    with pytest.raises(ValueError, match="invalid numeric entries"):
        sweep(model, wrap(model), LOADER, low=1e-3, high=1e6, steps=30)


def test_a_loss_that_is_not_finite_from_the_start_is_no_sweep(model):
    with torch.no_grad():
        model.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"not finite at a learning rate of 1\.0e-04 already"):
        sweep(model, wrap(model), LOADER, low=1e-4, high=1, steps=40)


@pytest.mark.parametrize(("low", "high", "steps"), [(1, 0.1, 100), (0, 1, 100), (1e-5, 1, 5)])
def test_sweeps_that_cannot_be(model, low, high, steps):
    with pytest.raises(ValueError, match="rates must rise, in at least 20"):
        sweep(model, wrap(model), LOADER, low, high, steps)


def test_smoothing_does_not_lag():
    line = [float(value) for value in range(60)]
    assert smooth(line) == pytest.approx(line)
    noisy = [value + (-1) ** value * 5 for value in range(60)]
    assert np.abs(np.subtract(smooth(noisy), line))[6:-6].max() < 1.5


def curve(losses):
    rates = np.geomspace(1e-6, 1, len(losses))
    return Sweep(tuple(rates.tolist()), tuple(losses), tuple(losses), exploded=False)


def test_the_steepest_place_lies_before_the_minimum():
    rates = np.geomspace(1e-6, 1, 61)
    fall = 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))  # steepest at 1e-3
    rise = np.where(rates > 0.05, 30 * (np.log10(rates) - np.log10(0.05)), 0)
    found = curve((fall + rise).tolist())
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert found.tenth == pytest.approx(0.05 / 10, rel=0.3)


def test_the_first_losses_which_no_neighbours_smooth_are_not_the_steepest():
    rates = np.geomspace(1e-6, 1, 61)
    fall = 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))
    fall[:2] += [0.6, 0.3]
    assert curve(fall.tolist()).steepest == pytest.approx(1e-3, rel=0.3)


def test_a_loss_that_never_falls_suggests_nothing():
    found = curve(np.linspace(1, 5, 40).tolist())
    assert found.steepest is None and found.tenth is None
    assert found.to_dict()["tenth_of_minimum"] is None
