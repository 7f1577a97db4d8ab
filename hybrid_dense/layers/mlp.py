"""The feed-forward half of a transformer block."""

from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with a GELU between, (…, d) to (…, d); timm's parameter names."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))
