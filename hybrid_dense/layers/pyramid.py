"""Four maps from one."""

from torch import Tensor, nn

from hybrid_dense.archs import CNN_STRIDES, FeatureSpec
from hybrid_dense.layers.norm import LayerNorm2d


class GridPyramid(nn.Module):
    """The simple feature pyramid of ViTDet (Li et al. 2022, section 3): a grid of stride 16 to strides 4, 8, 16 and 32.

    ``forward(grid, size)`` maps (b, d, ⌈H/16⌉, ⌈W/16⌉) and the images' (H, W) to d/4, d/2, d and d channels
    (``features``), from level ``start_level`` on.
    """

    def __init__(self, dim: int, start_level: int = 0):
        super().__init__()
        channels = (dim // 4, dim // 2, dim, dim)
        self.features = tuple(FeatureSpec(*spec) for spec in zip(channels, CNN_STRIDES, strict=True))[start_level:]
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
                    LayerNorm2d(dim // 2, eps=1e-6),
                    nn.GELU(),
                    nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
                ),
                nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ][start_level:]
        )

    def forward(self, grid: Tensor, size: tuple[int, int]) -> list[Tensor]:
        pyramid = []
        for level, feature in zip(self.levels, self.features, strict=True):
            height, width = (-(-side // feature.stride) for side in size)
            # The last token of a side may stand for less than 16 pixels; what lies beyond the image is cut off.
            pyramid.append(level(grid)[..., :height, :width])
        return pyramid
