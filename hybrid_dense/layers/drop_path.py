"""Stochastic depth (Huang et al. 2016): leave out a residual branch for a random part of the batch."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero the branch for each sample with probability ``rate`` in training and scale the rest by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate {rate} is not in [0, 1)")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        keep = 1.0 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
        return branch * branch.new_empty(shape).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
