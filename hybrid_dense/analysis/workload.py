"""A network as work that can be timed: one training step, or one inference, of a batch of a given size."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from hybrid_dense.analysis.complexity import count_flops, count_parameters
from hybrid_dense.analysis.machine import MemoryMeter, state_bytes

# Operations of a step, in forward passes: the backward computes gradients of inputs and of weights.
PASSES = {"train": 3, "infer": 1}


class Workload(ABC):
    """Work on square synthetic images with the weights of ``module``.

    ``load`` makes a batch, ``prepare`` puts the module into the mode, and ``run`` is what a clock looks at.
    """

    module: nn.Module
    batch: int
    small: ClassVar[int] = 64
    """Side of images on which everything comes into being that one step leaves to the next."""

    @abstractmethod
    def load(self, size: int) -> None:
        """Make a batch of ``size`` × ``size`` pixels, in place of the one before."""

    @abstractmethod
    def run(self, mode: str) -> None:
        """One training step or one inference of the batch."""

    @abstractmethod
    def count_forward(self) -> int:
        """Floating-point operations of one forward pass of the batch, attention counted."""

    def run_again(self, mode: str) -> None:
        """``run``, but what the run before left behind stays: only what is new counts as the step's memory."""
        self.run(mode)

    def prepare(self, mode: str) -> None:
        self.module.train(mode == "train")

    def count_parameters(self) -> int:
        return count_parameters(self.module)

    def state_bytes(self, mode: str) -> int:
        """What stays from step to step."""
        return state_bytes(self.module)


class BackboneWorkload(Workload):
    """A module that takes images (b, 3, H, W) to a tuple of maps; its training step is given the maps' gradients.

    What a loss would hand back is random; a loss of our own would be measured with the backbone. Maps leave as float32,
    as they go to heads.
    """

    def __init__(self, module: nn.Module, batch: int, device: torch.device, dtype: torch.dtype, compiled: bool = False):
        self.twin = on_meta(module)
        self.module = module.to(device)
        self.call = torch.compile(self.module, dynamic=False) if compiled else self.module
        self.batch, self.device, self.dtype = batch, device, dtype
        self.images: Tensor | None = None
        self.gradients: list[Tensor] | None = None

    def load(self, size: int) -> None:
        self.gradients = None
        self.images = torch.randn(self.batch, 3, size, size, device=self.device)

    def run(self, mode: str) -> None:
        if mode == "infer":
            with torch.inference_mode():
                self.forward()
            return
        self.module.zero_grad(set_to_none=True)
        self.learn()

    def run_again(self, mode: str) -> None:
        self.learn() if mode == "train" else self.run(mode)

    def learn(self) -> None:
        maps = [level for level in self.forward() if level.requires_grad]
        if self.gradients is None:
            self.gradients = [torch.randn_like(level) for level in maps]
        torch.autograd.backward(maps, self.gradients)

    def forward(self) -> tuple[Tensor, ...]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return tuple(level.float() for level in self.call(self.images))

    def count_forward(self) -> int:
        """On the meta device, where shapes cost nothing; on the images themselves where a module cannot go there."""
        with torch.no_grad():
            try:
                return count_flops(lambda: self.twin(self.images.to("meta")))
            except (RuntimeError, NotImplementedError):
                self.module.eval()
                return count_flops(lambda: self.module(self.images))


def on_meta(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters and buffers have shapes and no values; nothing is copied for it."""
    twins = {id(tensor): tensor.to("meta") for tensor in module.buffers()}
    for parameter in module.parameters():
        twins[id(parameter)] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
    twin = copy.deepcopy(module, twins).eval()
    assert all(tensor.is_meta for tensor in chain(twin.parameters(), twin.buffers()))
    return twin


def measure_memory(workload: Workload, size: int, mode: str) -> tuple[int, int]:
    """Peak bytes of one step: with the weights and gradients it works on, and above what was held before it.

    A step on a small image goes before, so that gradients, optimizer states and thread pools are there.
    """
    workload.load(workload.small)
    workload.prepare(mode)
    workload.module.zero_grad(set_to_none=True)  # of a training step that was measured before
    workload.run(mode)
    workload.load(size)
    meter = MemoryMeter(next(workload.module.parameters()).device)
    before = meter.start()
    workload.run_again(mode)
    step = meter.peak() - before
    return workload.state_bytes(mode) + step, step
