"""The feed-forward half of a transformer block, with timm's parameter names."""

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with a GELU between, (…, d) to (…, d)."""

    def __init__(self, dim: int, ratio: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class SwiGLU(nn.Module):
    """A gated feed-forward (Shazeer 2020, section 2), (…, d) to (…, d); as DINOv2's largest model has it.

    Two thirds of the plain one's hidden channels, rounded up to a multiple of 8, make up for the third matrix. ``fc1``
    holds the gate's rows, then the value's.
    """

    def __init__(self, dim: int, ratio: int):
        super().__init__()
        hidden = -(-int(ratio * dim * 2 / 3) // 8) * 8
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.fc1(tokens).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


MLPS = {"gelu": MLP, "swiglu": SwiGLU}
