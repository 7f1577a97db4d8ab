"""A convolution that lets neighbouring windows see each other."""

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.layers.norm import LayerNorm2d


class ResidualConv(nn.Module):
    """Bottleneck of 1×1, 3×3 and 1×1 convolutions beside a shortcut, (b, d, h, w) to the same.

    The convolutional propagation of ViTDet (Li et al. 2022, section 3 and table 2b): half the channels in between,
    every convolution followed by a LayerNorm. The last one starts at zero, and so the block as the identity.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim // 2, 1, bias=False)
        self.norm1 = LayerNorm2d(dim // 2, eps=1e-6)
        self.conv2 = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, bias=False)
        self.norm2 = LayerNorm2d(dim // 2, eps=1e-6)
        self.conv3 = nn.Conv2d(dim // 2, dim, 1, bias=False)
        self.norm3 = LayerNorm2d(dim, eps=1e-6)
        nn.init.zeros_(self.norm3.weight)

    def forward(self, grid: Tensor) -> Tensor:
        hidden = F.gelu(self.norm1(self.conv1(grid)))
        hidden = F.gelu(self.norm2(self.conv2(hidden)))
        return grid + self.norm3(self.conv3(hidden))
