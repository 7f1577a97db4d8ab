"""A pyramid from one map: for plain ViTs, whose layers all have one stride."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from hybrid_dense.archs import CNN_STRIDES
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.pyramid import GridPyramid
from hybrid_dense.necks.base import Neck

GRID_STRIDE = 16


@MODELS.register_module()
class SimplePyramid(Neck):
    """ViTDet's simple feature pyramid (Li et al. 2022, section 3): strides 4 to 32 from one map of stride 16.

    Transposed convolutions enlarge it, max pooling halves it; then every level has a 1×1 and a 3×3 convolution, each
    followed by a LayerNorm. No level sees another. Where the backbone hands on finer maps, too, the outputs are cut to
    the image as those are; from one map alone they reach to the end of its last cells.

    Args:
        in_channels: channels of the one map, a number, or of all maps that the backbone hands on.
        in_index: which of them is taken; by default the third of four, else the last.
        strides: strides of these maps; by default each is half of the next and the one taken is at 16.
        norm, **options: those of ``Neck``; ``start_level`` counts from stride 4.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_index: int | None = None,
        strides: Sequence[int] | None = None,
        norm: str | None = "LN",
        **options,
    ):
        channels = (in_channels,) if isinstance(in_channels, int) else in_channels
        maps = len(channels)
        if in_index is None:
            in_index = 2 if maps == 4 else maps - 1
        check_choice("in_index", in_index, range(-maps, maps))
        in_index %= maps
        if strides is None:
            strides = [max(GRID_STRIDE * 2**level // 2**in_index, 1) for level in range(maps)]
        super().__init__(channels, strides=strides, norm=norm, **options)
        if self.strides[in_index] != GRID_STRIDE:
            raise ValueError(
                f"map {in_index} of strides {list(self.strides)} is not at stride {GRID_STRIDE}; set neck.in_index"
            )
        check_choice("start_level", self.start_level, range(len(CNN_STRIDES)))
        self.in_index = in_index
        self.grid = GridPyramid(channels[in_index], self.start_level)
        channels = [feature.channels for feature in self.grid.features]
        self.outputs = nn.ModuleList(
            nn.Sequential(
                *self.make_conv(source, self.out_channels, 1), *self.make_conv(self.out_channels, self.out_channels, 3)
            )
            for source in channels
        )
        self.extras = self.make_extras(channels)

    def levels(self, features: tuple[Tensor, ...]) -> list[Tensor]:
        upto = self.in_index + 1
        self.check_sizes(features[:upto], self.strides[:upto])
        size = tuple(side * self.strides[0] for side in features[0].shape[-2:])
        return self.grid(features[self.in_index], size)

    def merge(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [output(level) for output, level in zip(self.outputs, levels, strict=True)]
