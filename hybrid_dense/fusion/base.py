"""What every fusion rule is: a bridge into the CNN stream, a bridge into the ViT stream, or both; shapes stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.norm import LayerNorm2d
from hybrid_dense.layers.pointwise import PointwiseConv2d
from hybrid_dense.layers.resample import to_stride

DIRECTIONS = ("both", "to_cnn", "to_vit")

# The way into the CNN opens at exactly zero: training starts from the CNN trunk as it was pretrained, unfused. The way
# into the ViT opens nearly so; at exactly zero, what stands before it would see no gradient until the third step.
INTO_CNN_STD = 0.0
INTO_VIT_STD = 1e-3


def projection(in_channels: int, out_channels: int, std: float = 0.02) -> nn.Conv2d:
    """A 1×1 convolution, (b, in_channels, h, w) to (b, out_channels, h, w), that starts at this standard deviation."""
    project = PointwiseConv2d(in_channels, out_channels)
    nn.init.normal_(project.weight, std=std)
    nn.init.zeros_(project.bias)
    return project


class Carry(nn.Module):
    """Bring a source stream to a target's channels and stride: normalise, project 1×1, resample.

    The projection runs at the coarser of the two strides, where it is cheapest.
    """

    def __init__(self, source: FeatureSpec, target: FeatureSpec, std: float):
        super().__init__()
        self.strides = source.stride, max(source.stride, target.stride), target.stride
        self.norm = LayerNorm2d(source.channels, eps=1e-6)
        self.project = projection(source.channels, target.channels, std)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """(b, source channels, …) to (b, target channels, *size)."""
        return self.spread(self.gather(features, size), size)

    def gather(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The source in the target's channels, at the coarser of the two strides."""
        source, coarse, _ = self.strides
        return self.project(self.norm(to_stride(features, source, coarse, size)))

    def spread(self, message: Tensor, size: tuple[int, int]) -> Tensor:
        """From the coarser stride to the target's, whatever the channels."""
        _, coarse, target = self.strides
        return to_stride(message, coarse, target, size)


class Bridge(nn.Module, ABC):
    """One way across: ``forward(target, source)`` returns the target stream, changed, in its own shape.

    It is built with both streams' channels and strides and with ``std``, the standard deviation that the last
    projection before the target has to start with (zero on the way into the CNN).
    """

    def __init__(self, target: FeatureSpec, source: FeatureSpec, std: float):
        super().__init__()

    @abstractmethod
    def forward(self, target: Tensor, source: Tensor) -> Tensor: ...


class Fusion(nn.Module):
    """Join a CNN feature map and the ViT's grid: ``(conv, grid) -> (conv', grid')``, same shapes out as in.

    Args:
        conv: the CNN stream's channels and stride at this stage.
        grid: the ViT stream's.
        direction: ``"both"``, ``"to_cnn"`` or ``"to_vit"``: which stream is changed. Both bridges read the streams as
            they came in.

    A rule is a subclass that names its ``bridge``.
    """

    bridge: ClassVar[type[Bridge]]

    def __init__(self, conv: FeatureSpec, grid: FeatureSpec, direction: str = "both"):
        super().__init__()
        check_choice("fusion direction", direction, DIRECTIONS)
        self.direction = direction
        self.to_cnn = self.bridge(conv, grid, INTO_CNN_STD) if direction != "to_vit" else None
        self.to_vit = self.bridge(grid, conv, INTO_VIT_STD) if direction != "to_cnn" else None

    def forward(self, conv: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        fused_conv = conv if self.to_cnn is None else self.to_cnn(conv, grid)
        fused_grid = grid if self.to_vit is None else self.to_vit(grid, conv)
        return fused_conv, fused_grid
