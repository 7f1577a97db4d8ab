"""What every neck reads and promises: a backbone's maps in, ``num_outs`` maps of one width out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from mmengine.model import BaseModule
from torch import Tensor, nn

from hybrid_dense.archs import CNN_STRIDES
from hybrid_dense.layers.choices import check_choice
from hybrid_dense.layers.layout import contiguous_maps
from hybrid_dense.necks.convs import CONVS, NORMS, convolution

EXTRA_LEVELS = ("pool", "conv", "conv_on_input")


class Neck(BaseModule, ABC):
    """Maps (b, in_channels[i], h_i, w_i), fine to coarse, to ``num_outs`` maps of ``out_channels``, fine to coarse.

    Output i is at the stride of input ``start_level`` + i, and of its size; each level beyond the inputs halves the one
    before, rounded up. Any image size works. Maps may come channels_last; they leave channels first.

    Args:
        in_channels: channels of the backbone's maps, all of them; the backbone's ``out_channels``.
        out_channels: channels of every output.
        num_outs: number of outputs; those beyond the inputs are made from the coarsest.
        start_level: the first input that is used: 0 for P2 and coarser, 1 for P3 and coarser.
        strides: strides of the inputs, where they are not 4, 8, 16, 32, …
        extra_levels: what makes the levels beyond the inputs: ``"pool"`` takes every second pixel (the RPN's P6, Lin et
            al. 2017), ``"conv"`` learns 3×3 convolutions from the coarsest output on (FCOS, Tian et al. 2019),
            ``"conv_on_input"`` does so from the coarsest level before its projection (RetinaNet, Lin et al. 2017b). A
            ReLU stands between two of them.
        conv: ``"full"`` or ``"depthwise"`` (separable) 3×3 convolutions.
        norm: what follows every convolution: ``None``, ``"BN"``, ``"GN"`` (32 groups) or ``"LN"`` (over channels).
        init_cfg: mmengine's weight initialisation.

    Raises:
        ValueError: fewer outputs than levels, unknown options, or maps that are not those of ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        start_level: int = 0,
        strides: Sequence[int] | None = None,
        extra_levels: str = "pool",
        conv: str = "full",
        norm: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        check_choice("extra_levels", extra_levels, EXTRA_LEVELS)
        check_choice("conv", conv, CONVS)
        check_choice("norm", norm, NORMS)
        if isinstance(in_channels, (int, str)):
            raise ValueError(f"in_channels {in_channels!r} is no list; set neck.in_channels to a number for each map")
        self.in_channels = tuple(in_channels)
        self.out_channels, self.num_outs = out_channels, num_outs
        self.start_level, self.extra_levels = start_level, extra_levels
        doubling = [CNN_STRIDES[0] * 2**level for level in range(len(self.in_channels))]
        self.strides = tuple(strides or doubling)
        if len(self.strides) != len(self.in_channels):
            raise ValueError(f"strides {list(self.strides)} are not one for each of in_channels {list(in_channels)}")
        if any(coarse % fine for fine, coarse in pairwise(self.strides)):
            raise ValueError(f"strides {list(self.strides)} are not each a multiple of the one before")
        self.make_conv = partial(convolution, kind=conv, norm=norm)

    def make_extras(self, channels: Sequence[int]) -> nn.ModuleList:
        """What makes the levels beyond those that have these ``channels`` before their projection."""
        missing = self.num_outs - len(channels)
        if missing < 0:
            raise ValueError(
                f"num_outs {self.num_outs} is less than the {len(channels)} levels from start_level {self.start_level} "
                f"on; set num_outs={len(channels)} or a higher start_level"
            )
        if self.extra_levels == "pool":
            return nn.ModuleList(nn.MaxPool2d(1, stride=2) for _ in range(missing))
        source = channels[-1] if self.extra_levels == "conv_on_input" else self.out_channels
        sources = [source, *[self.out_channels] * missing][:missing]
        extras = [self.make_conv(source, self.out_channels, 3, stride=2) for source in sources]
        return nn.ModuleList(nn.Sequential(nn.ReLU(), *extra) if level else extra for level, extra in enumerate(extras))

    def forward(self, features: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
        features = (features,) if isinstance(features, Tensor) else tuple(features)
        self.check_channels(features)
        levels = self.levels(features)
        pyramid = self.merge(levels)
        level = levels[-1] if self.extra_levels == "conv_on_input" else pyramid[-1]
        for extra in self.extras:
            level = extra(level)
            pyramid.append(level)
        return contiguous_maps(pyramid)

    def levels(self, features: tuple[Tensor, ...]) -> Sequence[Tensor]:
        """The levels that are merged, before their projection."""
        return features[self.start_level :]

    @abstractmethod
    def merge(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The levels to as many maps of ``out_channels``."""

    def check_channels(self, features: tuple[Tensor, ...]) -> None:
        found = tuple(feature.shape[1] for feature in features)
        if found != self.in_channels:
            maps = ", ".join(f"C{level}: {channels}" for level, channels in enumerate(found, start=2))
            raise ValueError(
                f"{type(self).__name__} was built for in_channels {list(self.in_channels)} but gets "
                f"{maps if len(found) > 1 else f'one map of {found[0]}'}; set neck.in_channels={list(found)}"
            )

    def check_sizes(self, features: Sequence[Tensor], strides: Sequence[int]) -> None:
        """Refuse maps that cannot lie at these strides: they would be put together shifted, without an error."""
        finest = features[0].shape[-2:]
        for feature, stride in zip(features, strides, strict=True):
            for side, fine in zip(feature.shape[-2:], finest, strict=True):
                # Ours round up; a backbone that rounds down has one cell less.
                if not 0 <= -(-fine * strides[0] // stride) - side <= 1:
                    sizes = ", ".join("×".join(map(str, level.shape[-2:])) for level in features)
                    raise ValueError(
                        f"maps of {sizes} cells do not lie at strides {', '.join(map(str, strides))}; set "
                        f"neck.strides to the backbone's"
                    )


def levels_from(in_channels: Sequence[int], start_level: int) -> Sequence[int]:
    """Those of the inputs that are used.

    Raises:
        ValueError: there are none.
    """
    check_choice("start_level", start_level, range(len(in_channels)))
    return in_channels[start_level:]
