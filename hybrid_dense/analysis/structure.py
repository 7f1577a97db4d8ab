"""What a backbone is made of, part by part: output, parameters and operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.registry import MODELS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybrid_dense.analysis.complexity import count_parameters


@dataclass(frozen=True)
class Part:
    """One part of a backbone for one image: the (channels, height, width) it hands on, parameters, FLOPs (2 a MAC)."""

    name: str
    output: tuple[int, int, int] | None
    parameters: int
    flops: int


def describe_parts(config: dict, size: tuple[int, int]) -> list[Part]:
    """The parts of ``MODELS.build(config)`` in the order of the forward pass, then ``others`` and ``total``.

    Nothing is computed: shapes and operations are counted on the meta device.
    """
    with torch.device("meta"):
        backbone = MODELS.build(config).eval()
        images = torch.zeros(1, backbone.in_channels, *size)
    modules = backbone.parts()
    outputs: dict[str, tuple[int, int, int]] = {}
    for name, group in modules.items():
        group[-1].register_forward_hook(
            lambda _, inputs, output, name=name: outputs.update({name: shape(inputs, output)})
        )
    counter = FlopCounterMode(display=False)
    # Fused attention hides its operations from the counter.
    with sdpa_kernel(SDPBackend.MATH), counter:
        backbone(images)
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    names = {module: f"{type(backbone).__name__}.{name}" for name, module in backbone.named_modules()}
    parts = [
        Part(
            name,
            outputs.get(name),
            sum(count_parameters(module) for module in group),
            sum(counts.get(names[module], 0) for module in group),
        )
        for name, group in modules.items()
    ]
    total = Part("total", None, count_parameters(backbone), counter.get_total_flops())
    others = Part(
        "others",
        None,
        total.parameters - sum(part.parameters for part in parts),
        total.flops - sum(part.flops for part in parts),
    )
    return [*parts, others, total]


def shape(inputs: tuple, output) -> tuple[int, int, int]:
    """(channels, height, width) of what a stage, a block of tokens or a fusion hands on."""
    if isinstance(output, tuple):
        output = output[0]
    if output.dim() == 3:  # tokens, called with the size of their grid
        return output.shape[-1], *inputs[1]
    return tuple(output.shape[1:])
