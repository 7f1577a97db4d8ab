"""How a level of a pyramid takes its neighbour: a table of modules ``(level, other) -> level'``, all of one size."""

import torch
from torch import Tensor, nn


class AddMerge(nn.Module):
    """``level + other`` (FPN, Lin et al. 2017)."""

    def forward(self, level: Tensor, other: Tensor) -> Tensor:
        return level + other


class GateMerge(nn.Module):
    """``(1 + g) ⊙ level + (1 − g) ⊙ h ⊙ other``, g read from the level and h from the other, each (b, 1, h, w).

    Gated full fusion of two levels (GFF, Li et al. 2020, its section of that name): where a level is sure of itself it
    keeps to itself, and it takes from the other what that one is sure of. Cost: 2 · (channels + 1) parameters. A
    forward hook on ``level_gate`` or ``other_gate`` reads the gates, between 0 and 1.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.level_gate = gate(channels)
        self.other_gate = gate(channels)

    def forward(self, level: Tensor, other: Tensor) -> Tensor:
        keep = self.level_gate(level)
        return torch.addcmul((1 + keep) * level, (1 - keep) * self.other_gate(other), other)


def gate(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, 1, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.Sigmoid())


MERGES = {"add": lambda channels: AddMerge(), "gate": GateMerge}
