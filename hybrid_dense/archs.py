"""The sizes: two tables, one parser, no torch.

``rx50_vit_s`` is row ``rx50`` of the CNNs beside row ``s`` of the ViTs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

NUM_STAGES = 4
CNN_STRIDES = (4, 8, 16, 32)
"""Strides of the four feature maps C2..C5 that every backbone emits."""


@dataclass(frozen=True)
class FeatureSpec:
    """What one feature map looks like: (b, ``channels``, ⌈H/``stride``⌉, ⌈W/``stride``⌉)."""

    channels: int
    stride: int


@dataclass(frozen=True)
class CNNArch:
    """One ResNet / ResNeXt (He et al. 2016; Xie et al. 2017, table 1).

    ``width`` is the channel count that stage 1 starts from; stage i has ``expansion · width · 2^i`` output channels.
    With an expansion of 4 blocks are bottlenecks, whose 3×3 convolution has ``groups`` groups of
    ``group_width · width / 64 · 2^i`` channels (torchvision's ``width_per_group``). With 1 they are the two 3×3
    convolutions of ResNet-18 and 34, which have no groups.

    Raises:
        ValueError: another expansion, or groups where there are none.
    """

    blocks: tuple[int, int, int, int]
    width: int = 64
    groups: int = 1
    group_width: int = 64
    expansion: int = 4

    def __post_init__(self):
        if self.expansion not in (1, 4):
            raise ValueError(f"expansion {self.expansion} is neither 4 (bottlenecks) nor 1 (two 3×3 convolutions)")
        if self.expansion == 1 and (self.groups, self.group_width) != (1, 64):
            raise ValueError("blocks of two 3×3 convolutions have no groups; leave groups and group_width")

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """C2..C5."""
        return tuple(
            FeatureSpec(self.expansion * self.width * 2**stage, stride) for stage, stride in enumerate(CNN_STRIDES)
        )


@dataclass(frozen=True)
class ViTArch:
    """One plain Vision Transformer (Dosovitskiy et al. 2021, table 1; DeiT for the small rows)."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    patch: int = 16

    @property
    def features(self) -> FeatureSpec:
        """The token grid."""
        return FeatureSpec(self.dim, self.patch)


CNN_ARCHS = {
    "rxnano": CNNArch(blocks=(1, 1, 1, 1), width=16, groups=8, group_width=16),
    "r18": CNNArch(blocks=(2, 2, 2, 2), expansion=1),
    "rx26": CNNArch(blocks=(2, 2, 2, 2), groups=32, group_width=4),
    "r34": CNNArch(blocks=(3, 4, 6, 3), expansion=1),
    "r50": CNNArch(blocks=(3, 4, 6, 3)),
    "rx50": CNNArch(blocks=(3, 4, 6, 3), groups=32, group_width=4),
    "rx101": CNNArch(blocks=(3, 4, 23, 3), groups=32, group_width=4),
    "rx152": CNNArch(blocks=(3, 8, 36, 3), groups=32, group_width=4),
}

VIT_ARCHS = {
    "pico": ViTArch(dim=96, depth=4, heads=3),
    "ti": ViTArch(dim=192, depth=12, heads=3),
    "s": ViTArch(dim=384, depth=12, heads=6),
    "b": ViTArch(dim=768, depth=12, heads=12),
    "l": ViTArch(dim=1024, depth=24, heads=16),
}


def list_variants() -> list[str]:
    """Every name that ``variant=`` takes, smallest CNN first."""
    return [f"{cnn}_vit_{vit}" for cnn in CNN_ARCHS for vit in VIT_ARCHS]


def parse_variant(variant: str | Mapping) -> tuple[CNNArch, ViTArch]:
    """``"rx50_vit_s"`` to its two rows; ``dict(cnn=…, vit=…)`` gives sizes that are in no table.

    Each of the two is then a row's name or the arguments of ``CNNArch`` and ``ViTArch``:
    ``dict(cnn=dict(blocks=(2, 2, 2, 2), width=32), vit="ti")``.

    Raises:
        ValueError: the name is not ``<cnn>_vit_<vit>`` with a row of each table; the message names the nearest variant.
            A dict without exactly ``cnn`` and ``vit``, or with an unknown row or size.
    """
    if isinstance(variant, Mapping):
        if set(variant) != {"cnn", "vit"}:
            raise ValueError(f"variant has {', '.join(variant) or 'nothing'}; sizes of your own are dict(cnn=…, vit=…)")
        return read_sizes(variant["cnn"], CNN_ARCHS, CNNArch), read_sizes(variant["vit"], VIT_ARCHS, ViTArch)
    cnn, _, vit = str(variant).partition("_vit_")
    if cnn in CNN_ARCHS and vit in VIT_ARCHS:
        return CNN_ARCHS[cnn], VIT_ARCHS[vit]
    near = get_close_matches(str(variant), list_variants(), n=1, cutoff=0.0)[0]
    raise ValueError(
        f"unknown variant {variant!r}, did you mean {near!r}? A variant is <cnn>_vit_<vit> with cnn one of "
        f"{', '.join(CNN_ARCHS)} and vit one of {', '.join(VIT_ARCHS)}"
    )


def read_sizes(sizes: str | Mapping, table: dict, arch: type) -> CNNArch | ViTArch:
    """A row by its name, or one made of its arguments."""
    if isinstance(sizes, str):
        if sizes not in table:
            raise ValueError(f"unknown row {sizes!r}; there are {', '.join(table)}, or give dict(…) of {arch.__name__}")
        return table[sizes]
    if not isinstance(sizes, Mapping):
        raise ValueError(f"{sizes!r} is neither a row ({', '.join(table)}) nor dict(…) of {arch.__name__}")
    try:
        read = arch(**{name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()})
    except TypeError as error:
        known = ", ".join(field.name for field in fields(arch))
        raise ValueError(f"{arch.__name__} of {dict(sizes)}: {error}; it takes {known}") from error
    blocks = getattr(read, "blocks", (0,) * NUM_STAGES)
    if not isinstance(blocks, tuple) or len(blocks) != NUM_STAGES:
        raise ValueError(f"{arch.__name__} of {dict(sizes)}: blocks are a number for each of {NUM_STAGES} stages")
    return read
