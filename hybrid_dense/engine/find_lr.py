"""The learning-rate sweep: raise the rate from step to step, see where the loss falls fastest and where it explodes.

L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017 (arXiv 1506.01186, 2015), the range test;
in the exponential form that fast.ai gave it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner

from hybrid_dense.engine.loops import NO_BATCH
from hybrid_dense.engine.rehearsal import begin
from hybrid_dense.engine.stop import TrainingStopped

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 150
# A loss this many times the best one has exploded.
_EXPLODED = 4.0
# Of the running mean that decides it, the weight of what was before; and the steps before it decides anything.
_MEMORY, _SETTLING = 0.9, 10
# The smoothed loss at a step is the mean over this share of all steps to both sides.
_REACH = 0.05


@dataclass(frozen=True)
class Sweep:
    """Learning rates in the order they were used, and the losses found with them.

    Args:
        rates: of the optimizer; groups of parameters had theirs in the config's proportions.
        losses: before the step with this rate.
        smoothed: their mean over neighbours.
        exploded: whether the loss did before the highest rate was reached.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    exploded: bool

    @property
    def steepest(self) -> float | None:
        """The rate at which the loss falls fastest on its way to the minimum, None if it never falls."""
        lowest, first = int(np.argmin(self.smoothed)), _reach(len(self.losses))  # before that hardly smoothed
        if lowest < first + 2:
            return None
        slopes = np.gradient(self.smoothed, np.log10(self.rates))[:lowest]
        place = first + int(np.argmin(slopes[first:]))
        return self.rates[place] if slopes[place] < 0 else None

    @property
    def tenth(self) -> float | None:
        """A tenth of the rate with the lowest loss, None if it never falls."""
        return None if self.steepest is None else self.rates[int(np.argmin(self.smoothed))] / 10

    def to_dict(self) -> dict:
        """As plain numbers, for JSON."""
        return dict(
            rates=list(self.rates),
            losses=list(self.losses),
            smoothed=list(self.smoothed),
            exploded=self.exploded,
            steepest=self.steepest,
            tenth_of_minimum=self.tenth,
        )


def find_lr(runner: Runner, low: float = LOWEST, high: float = HIGHEST, steps: int = STEPS) -> Sweep:
    """Sweep the learning rate with a runner of `rehearsal_config` that has not trained; see `sweep`."""
    begin(runner)
    runner._init_model_weights()
    runner.load_or_resume()
    return sweep(runner.model, runner.optim_wrapper, runner.train_dataloader, low, high, steps)


def sweep(model, wrapper, loader, low: float = LOWEST, high: float = HIGHEST, steps: int = STEPS) -> Sweep:
    """Train ``steps`` steps while the rate rises from ``low`` to ``high``; stops when the loss explodes.

    Weights, buffers and the optimizer are afterwards what they were before. With several processes the loss is their
    mean, so all of them stop at one step.

    Args:
        model: with mmengine's ``train_step``, in training mode.
        wrapper: an `OptimWrapper`; between two steps of the optimizer the rate stays, and losses are averaged.
        loader: batches; it begins anew when it ends.

    Raises:
        ValueError: rates that do not rise, too few steps, or a loss that is not finite at the lowest rates.
    """
    if not 0 < low < high or steps < 2 * _SETTLING:
        raise ValueError(f"a sweep from {low} to {high} in {steps} steps: rates must rise, in at least {2 * _SETTLING}")
    weights, state = deepcopy(model.state_dict()), deepcopy(wrapper.state_dict())
    base = wrapper.optimizer.defaults["lr"]
    shares = [group["lr"] / base for group in wrapper.optimizer.param_groups]
    accumulated = wrapper._accumulative_counts
    wrapper.initialize_count_status(model, 0, steps * accumulated)
    batches = _endless(loader)
    rates, losses, mean, best, exploded = [], [], 0.0, math.inf, False
    try:
        for rate in np.geomspace(low, high, steps).tolist():
            for group, share in zip(wrapper.optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            loss = _take_step(model, wrapper, batches, accumulated)
            if not math.isfinite(loss):
                exploded = True
                break
            rates.append(rate)
            losses.append(loss)
            mean = _MEMORY * mean + (1 - _MEMORY) * loss
            running = mean / (1 - _MEMORY ** len(losses))
            if len(losses) > _SETTLING and running > _EXPLODED * best:
                exploded = True
                break
            best = min(best, running)
    finally:
        model.load_state_dict(weights)
        wrapper.load_state_dict(state)
        wrapper.zero_grad()
    if len(losses) < _SETTLING:
        raise ValueError(
            f"the loss is not finite at a learning rate of {rates[-1] if rates else low:.1e} already; "
            "look at the data (hybrid-dense check-data) or compute in float32 (--no-amp)"
        )
    return Sweep(tuple(rates), tuple(losses), smooth(losses), exploded)


def smooth(losses: list[float]) -> tuple[float, ...]:
    """The mean over neighbours, as many to one side as to the other, so that the curve does not lag behind."""
    values, reach = np.asarray(losses), _reach(len(losses))
    near = [min(reach, place, len(values) - 1 - place) for place in range(len(values))]
    return tuple(float(values[place - n : place + n + 1].mean()) for place, n in enumerate(near))


def _reach(count: int) -> int:
    return max(1, round(_REACH * count))


def _take_step(model, wrapper, batches: Iterator, accumulated: int) -> float:
    """One step of the optimizer; its loss over all batches and processes, NaN or infinite where the model broke."""
    losses = []
    for _ in range(accumulated):
        try:
            losses.append(float(model.train_step(next(batches), optim_wrapper=wrapper)["loss"].detach()))
        except TrainingStopped:
            losses.append(math.nan)
        except Exception:
            # Matchers and samplers raise errors of their own at numbers that are not finite.
            if all(parameter.isfinite().all() for parameter in model.parameters()):
                raise
            losses.append(math.nan)
    mean = torch.tensor(sum(losses) / len(losses), device=next(model.parameters()).device)
    all_reduce(mean, op="mean")
    return float(mean)


def _endless(loader) -> Iterator:
    epoch = 0
    while True:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(NO_BATCH)
        epoch += 1
