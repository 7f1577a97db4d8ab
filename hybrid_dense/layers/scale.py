"""LayerScale."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A learned factor a channel at the end of a residual branch (Touvron et al. 2021, CaiT, section 2)."""

    def __init__(self, dim: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(start)))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma
