"""Activation checkpointing: keep a module's input, and compute the rest again on the way back (Chen et al. 2016)."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module) -> None:
    """Make ``module`` recompute its activations in the backward pass, in place; without gradients nothing changes.

    Its class, its children and its state dict stay as they are. Under ``torch.compile`` modules with BatchNorm keep
    their activations, since a graph cannot tell a second look at a batch from a first. ``copy.deepcopy`` and pickle
    carry it along; a shallow copy would call the original.
    """
    # A partial on the instance survives deepcopy (EMA).
    module.forward = partial(_forward_recomputed, module)


def _forward_recomputed(module: nn.Module, *inputs, **options):
    forward = partial(type(module).forward, module)
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    if norms and torch.compiler.is_compiling():
        return forward(*inputs, **options)
    contexts = {"context_fn": lambda: (nullcontext(), _NotCounted(norms))} if norms else {}
    return checkpoint(forward, *inputs, use_reentrant=False, **contexts, **options)


class _NotCounted:
    """BatchNorm sees the batch a second time, which must not move its running statistics again.

    It can be entered again and again, since a graph can be walked more than once.
    """

    def __init__(self, norms: list[_BatchNorm]):
        self.norms = norms

    def __enter__(self) -> None:
        self.kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self.norms if norm.training]
        for norm, _, counter in self.kept:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if counter is None else counter.clone()

    def __exit__(self, *error) -> None:
        for norm, momentum, counter in self.kept:
            norm.momentum = momentum
            norm.num_batches_tracked = counter
