"""An optimizer that never takes a step that is not finite, in float32, bfloat16 and float16."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from hybrid_dense.engine.stop import SICK, TrainingStopped

DTYPES = ("float32", "bfloat16", "float16")
MAX_OVERFLOWS = 50
"""Steps in a row that float16 may lose to overflow. The scale has then fallen by 2^50: it is not the scale."""


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's `OptimWrapper` that looks at the norm of all gradients before each step.

    A norm that is not finite costs the step and nothing else: weights, optimizer state and the buffers that the forward
    pass wrote (BatchNorm's statistics) are what they were before, and gradients are gone. Gradients are the same on all
    ranks, so all of them skip. A loss that is not finite makes its gradients so, which is how a loss with finite
    gradients is caught, and on every rank.

    What it costs: clipping computes the norm anyway, and mmengine reads it each step; without clipping it is one more
    pass over the gradients and one wait for the GPU a step, which mmengine's reading of the losses would wait for a
    moment later. Beside that, one copy of the buffers a step.

    Args:
        dtype: what `AutocastHook` computes in, "float32", "bfloat16" or "float16". With float16 the loss is scaled so
            that small gradients survive; a step that overflows by that is skipped quietly, with half the scale from
            then on. A loss that is not finite, or `MAX_OVERFLOWS` in a row, is no such step.
        loss_scale: of float16: "dynamic", a fixed number to begin with, or the parameters of `torch.amp.GradScaler`.
        **options: those of `OptimWrapper`: optimizer, accumulative_counts, clip_grad. In clip_grad,
            ``error_if_nonfinite`` has no effect, since nothing is clipped that is not finite.

    Attributes:
        on_nonfinite: called with the gradient norm after weights and buffers are safe and before gradients are
            cleared; `SicknessHook` sets it. Without it the training stops.
        overflows: steps in a row that float16 has lost.
    """

    def __init__(self, *, dtype: str = "float32", loss_scale: str | float | dict = "dynamic", **options):
        if dtype not in DTYPES:
            raise ValueError(f"optim_wrapper dtype={dtype!r}; use one of {', '.join(DTYPES)}")
        super().__init__(**options)
        self.loss_scaler = None
        if dtype == "float16":
            device = next(p.device.type for group in self.optimizer.param_groups for p in group["params"])
            scaling = loss_scale if isinstance(loss_scale, dict) else {}
            if isinstance(loss_scale, (int, float)):
                scaling = dict(init_scale=float(loss_scale))
            elif loss_scale != "dynamic" and not scaling:
                raise ValueError(f"loss_scale={loss_scale!r}; use 'dynamic', a number or GradScaler's parameters")
            self.loss_scaler = torch.amp.GradScaler(device, **scaling)
        self.on_nonfinite: Callable[[float], None] | None = None
        self.overflows = 0
        self._loss_is_finite: Tensor | None = None
        self._model: nn.Module | None = None
        self._buffers = _RememberedBuffers()

    @contextmanager
    def optim_context(self, model: nn.Module):
        if self._inner_count % self._accumulative_counts == 0:
            self._model = model
            self._buffers.remember(model)
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        finite = loss.detach().isfinite()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite
        # Times 1, or NaN where the loss is not finite: then no gradient is, on any rank, and no rank steps.
        loss = loss * torch.where(finite, 1.0, math.nan)
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.loss_scaler is not None and parameters:
            self.loss_scaler.unscale_(self.optimizer)
        norm = self._clip(parameters)
        if math.isfinite(norm):
            self.message_hub.update_scalar("train/grad_norm", norm)
            self.optimizer.step(**kwargs)
            if self.loss_scaler is not None and parameters:
                self.loss_scaler.update()
            self.overflows = 0
        else:
            self._skip(norm)
        self._loss_is_finite = None

    def state_dict(self) -> dict:
        """The optimizer's state, with the scale of the loss under ``loss_scaler`` as `AmpOptimWrapper` has it."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaling = state_dict.pop("loss_scaler", None)
        if self.loss_scaler is not None and scaling:
            self.loss_scaler.load_state_dict(scaling)
        super().load_state_dict(state_dict)
        lay_out_as_weights(self.optimizer)

    @torch.no_grad()
    def _clip(self, parameters: list[nn.Parameter]) -> float:
        """Clip as the config says, unless the gradients are not finite; returns their norm before it."""
        limits = dict(self.clip_grad_kwargs or {})
        limits.pop("error_if_nonfinite", None)
        by_norm = "max_norm" in limits
        norm_type = limits.get("norm_type", 2.0)
        if _knows_its_norm(self._model):
            # Each rank holds a part of the gradients; the wrapper adds up the parts, and clips where it is to.
            norm = float(self._model.clip_grad_norm_(limits["max_norm"] if by_norm else math.inf, norm_type))
            by_norm = False
        else:
            total = nn.utils.get_total_norm(
                [p.grad for p in parameters], norm_type, foreach=limits.get("foreach") if by_norm else None
            )
            total = total.full_tensor() if hasattr(total, "full_tensor") else total  # of a DTensor's shards
            norm = float(total)
            if by_norm and math.isfinite(norm):
                nn.utils.clip_grads_with_norm_(parameters, limits["max_norm"], total, limits.get("foreach"))
        if "clip_value" in limits and math.isfinite(norm):
            nn.utils.clip_grad_value_(parameters, **limits)
        return norm

    def _skip(self, norm: float) -> None:
        """No step. An overflow of float16 halves the scale; what is no overflow is the callback's."""
        sick = self.loss_scaler is None or not self._every_loss_is_finite()
        if self.loss_scaler is not None:
            self.overflows += 1
            sick = sick or self.overflows >= MAX_OVERFLOWS
            self._lower_scale()
        if sick:
            self._buffers.restore()
            if self.on_nonfinite is None:
                raise TrainingStopped(
                    SICK, f"the gradients are not finite (norm {norm}), nothing was changed; SicknessHook says more"
                )
            self.on_nonfinite(norm)
        self.zero_grad()

    def _every_loss_is_finite(self) -> bool:
        """Over all ranks: each gets here in the same step, because each sees the same gradient norm."""
        finite = self._loss_is_finite.clone().int()
        all_reduce(finite, op="min")
        return bool(finite)

    def _lower_scale(self) -> None:
        """As `GradScaler.update()` does after an overflow, also on a rank whose own shard has none."""
        state = self.loss_scaler.state_dict()
        lower = state["scale"] * state["backoff_factor"]
        self.loss_scaler.load_state_dict({**state, "scale": lower, "_growth_tracker": 0})
        self.loss_scaler.update(lower)


def has_just_stepped(optim_wrapper) -> bool:
    """Whether no gradients are waiting for their step. Wrappers that do not say (DeepSpeed's) count as stepped."""
    wrappers = optim_wrapper.values() if hasattr(optim_wrapper, "values") else [optim_wrapper]
    return all(wrapper.should_update() for wrapper in wrappers if hasattr(wrapper, "should_update"))


@torch.no_grad()
def lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer's state the memory layout of its weights.

    Fused optimizers on a CPU walk through both side by side without a look at their strides, and a checkpoint may come
    from a model that was laid out otherwise: every step after it would be wrong, silently.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if type(value) is Tensor and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _knows_its_norm(model: nn.Module | None) -> bool:
    """Whether the wrapper shards the gradients and adds up their norm itself: FullyShardedDataParallel does."""
    return callable(getattr(type(model), "clip_grad_norm_", None))


class _RememberedBuffers:
    """A copy of a model's buffers that a forward pass may write: numbers and floating-point tensors."""

    def __init__(self):
        self.model: nn.Module | None = None
        # By type, because only tensors of one type are copied in one go.
        self.places: dict[torch.dtype, list[tuple[nn.Module, str]]] = {}
        self.copies: dict[torch.dtype, list[Tensor]] = {}

    @torch.no_grad()
    def remember(self, model: nn.Module) -> None:
        if model is not self.model:
            self.model, self.places = model, {}
            for module in model.modules():
                for name, buffer in module._buffers.items():
                    if _is_written(buffer):
                        self.places.setdefault(buffer.dtype, []).append((module, name))
            self.copies = {dtype: [buffer.clone() for buffer in self._current(dtype)] for dtype in self.places}
            return
        for dtype, copies in self.copies.items():
            torch._foreach_copy_(copies, self._current(dtype))

    @torch.no_grad()
    def restore(self) -> None:
        for dtype, copies in self.copies.items():
            torch._foreach_copy_(self._current(dtype), copies)

    def _current(self, dtype: torch.dtype) -> list[Tensor]:
        return [module._buffers[name] for module, name in self.places[dtype]]


def _is_written(buffer: Tensor | None) -> bool:
    return buffer is not None and (buffer.is_floating_point() or buffer.numel() == 1)
