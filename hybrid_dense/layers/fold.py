"""BatchNorm folded into the convolution in front of it, for inference."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from copy import copy, deepcopy
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hybrid_dense.layers.grouped_conv import GroupedConv2d
from hybrid_dense.layers.pointwise import PointwiseConv2d

# By their forward, since subclasses may standardise the weight first (mmcv's ConvWS2d) or normalise otherwise.
_CONVOLVE = (nn.Conv2d.forward, GroupedConv2d.forward, PointwiseConv2d.forward)
_NORMALISE = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


class Folded(nn.Identity):
    """Stands where a BatchNorm was, and keeps the model from being trained or saved without it."""

    def train(self, mode: bool = True) -> Folded:
        if mode:
            raise RuntimeError("BatchNorm is folded into this model's convolutions; build it anew to train")
        return super().train(mode)

    def _save_to_state_dict(self, *_) -> None:
        raise RuntimeError(
            "BatchNorm is folded into this model's convolutions; save it before that (a Predictor's: with fold=False)"
        )


class Slot(NamedTuple):
    """Where a layer stands: under this name in this module."""

    holder: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        return self.holder._modules[self.name]


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> int:
    """Fold every BatchNorm that directly follows a 2-D convolution into its weight and bias, in place.

    Outputs stay the same but for rounding. Which layer follows which is not guessed from names: the forward of every
    class that has both (a block, a ConvModule, a ``Sequential``) is traced with ``torch.fx``. BatchNorm is folded where
    the convolution's output goes to it and nowhere else; what cannot be traced stays as it is. Every folded convolution
    is a copy, so heads that share convolutions between levels, each level with a BatchNorm of its own (RTMDet), stay
    right. Afterwards the model refuses ``train()`` and ``state_dict()``.

    Args:
        model: in evaluation mode.

    Returns:
        How many were folded.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("BatchNorm can only be folded for inference; call model.eval() first")
    owners = Counter(child for module in model.modules() for child in module._modules.values())
    follower: dict[Slot, Slot | None] = {}
    for module in model.modules():
        for conv, norm in _convolutions(module, owners):
            # The layers of a `Sequential` are seen twice, by its owner and by itself; both must say the same.
            follower[conv] = norm if follower.get(conv, norm) == norm else None
    pairs = [(conv, norm) for conv, norm in follower.items() if norm is not None]
    folded = [(conv, norm, _fold(conv.layer, norm.layer)) for conv, norm in pairs]
    for conv, norm, layer in folded:
        conv.holder._modules[conv.name] = layer
        norm.holder._modules[norm.name] = Folded().eval()
    return len(folded)


def _convolutions(module: nn.Module, owners: Counter) -> Iterator[tuple[Slot, Slot | None]]:
    """Each convolution that the module's forward calls, and the BatchNorm that alone sees its output, if so."""
    layers = list(_own_layers(module))
    if not any(map(_is_conv, layers)) or not any(map(_is_norm, layers)):
        return
    try:
        nodes = _trace(module).nodes
    except Exception:  # its way depends on values; code that meets a stand-in for a tensor fails in any way
        return
    calls = [node for node in nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    for node in calls:
        conv = _slot(module, node.target, owners)
        if conv is None or not _is_conv(conv.layer):
            continue
        follower = next(iter(node.users)) if len(node.users) == 1 else None
        if follower is not None and follower.op == "output" and _is_chain(module):
            continue  # what comes behind a chain only its owner knows
        alone = follower is not None and follower.op == "call_module" and follower.args == (node,)
        once = alone and times[node.target] == times[follower.target] == 1
        norm = _slot(module, follower.target, owners) if once else None
        yield conv, norm if norm is not None and _is_norm(norm.layer) else None


def _own_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The children, and in place of a ``Sequential`` its own."""
    for child in module.children():
        if _is_chain(child):
            yield from _own_layers(child)
        else:
            yield child


def _is_chain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _is_conv(layer: nn.Module) -> bool:
    """A plain convolution that nobody watches; a parametrised one has no weight among its parameters."""
    return type(layer).forward in _CONVOLVE and layer._parameters.get("weight") is not None and not _is_watched(layer)


def _is_norm(layer: nn.Module) -> bool:
    fixed = type(layer).forward in _NORMALISE and not layer.training and layer.running_mean is not None
    return fixed and not _is_watched(layer)


def _is_watched(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


class _ShallowTracer(fx.Tracer):
    """Looks into ``Sequential``, because a convolution may be its last layer; other children are black boxes."""

    def is_leaf_module(self, module: nn.Module, _: str) -> bool:
        return not _is_chain(module)


def _trace(module: nn.Module) -> fx.Graph:
    """What the class's forward does, called with nothing but what it has no default for."""
    parameters = inspect.signature(type(module).forward).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A copy, because a forward may keep what it sees, and here that is no tensor.
        return _ShallowTracer().trace(copy(module), defaults)


def _slot(module: nn.Module, path: str, owners: Counter) -> Slot | None:
    """Where a traced layer stands; None if others look into a ``Sequential`` on the way there."""
    *way, name = path.split(".")
    holder = module
    for step in way:
        holder = holder._modules[step]
        if owners[holder] > 1:
            return None
    return Slot(holder, name)


def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> nn.Conv2d:
    """A copy of the convolution that normalises too, computed in float64."""
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    # On the CPU: not every device has float64.
    weight, *wide = (
        value.to("cpu", torch.float64) if isinstance(value, torch.Tensor) else value
        for value in (conv.weight, conv.bias, *statistics)
    )
    weight, bias = fuse_conv_bn_weights(weight, *wide)
    folded = deepcopy(conv)
    folded.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    return folded
