"""What every backbone reads and promises, and what a hybrid is made of: two trunks, four fusions, four maps out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hybrid_dense.archs import NUM_STAGES, FeatureSpec, parse_variant
from hybrid_dense.fusion import IdentityFusion, build_fusion, check_rule
from hybrid_dense.layers.recompute import recompute
from hybrid_dense.trunks import ResNeXt, ViT

FUSION_STAGES = {"early": (1, 2), "late": (3, 4), "all": (1, 2, 3, 4)}
SMALLEST_IMAGE = 32


def named_arguments(cls: type) -> frozenset[str]:
    """The arguments of a class that can be given by name."""
    found = inspect.signature(cls.__init__).parameters.values()
    return frozenset(argument.name for argument in found if argument.kind is argument.POSITIONAL_OR_KEYWORD) - {"self"}


def options_of(trunk: type[nn.Module]) -> frozenset[str]:
    """The options that a trunk takes beside its sizes and its input."""
    return named_arguments(trunk) - {"arch", "in_channels"}


class Backbone(BaseModule, ABC):
    """Images (b, in_channels, H, W), H and W at least 32, to the four maps C2..C5.

    Map i is (b, out_channels[i], ⌈H/s⌉, ⌈W/s⌉), s = 4, 8, 16, 32 (``strides``).

    Args:
        variant: the sizes of both trunks, ``"<cnn>_vit_<vit>"``; see ``hybrid_dense.list_variants()``.
        fusion: the rule, ``dict(type="GatedFusion", direction="both")``; see ``hybrid_dense.list_fusions()``.
        fusion_stages: where the streams exchange: ``"early"`` (1, 2), ``"late"`` (3, 4), ``"all"``, or the stages'
            numbers.
        in_channels: channels of the images.
        with_cp: activation checkpointing of blocks and fusions: a fraction of the memory for a third more time.
        init_cfg: mmengine's weight initialisation, e.g. ``dict(type="TrunkPretrained", cnn=…, vit=…)``.
        **options: those of the trunks, by name: ``frozen_stages``, ``norm_eval``, … of ``ResNeXt``, ``window``,
            ``attention``, ``drop_path_rate``, … of ``ViT``.

    Every backbone takes all of them, and leaves aside what it has no part for, so that two can be compared by changing
    ``type`` alone. BatchNorm is plain; ``sync_bn="torch"`` in the config synchronises it across GPUs.

    Raises:
        ValueError: unknown variant, fusion, stage or direction; images of wrong channels or too small.
        TypeError: an option that neither trunk has; the message names the nearest.
    """

    # `attend_in` is InterleavedResNeXtViT's own.
    option_names: ClassVar[frozenset[str]] = options_of(ResNeXt) | options_of(ViT) | {"attend_in"}

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(
        self,
        variant: str,
        fusion: dict | None = None,
        fusion_stages: str | Sequence[int] = "all",
        in_channels: int = 3,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **options,
    ):
        super().__init__(init_cfg)
        self.check_options(options)
        self.in_channels = in_channels
        self.cnn_arch, self.vit_arch = parse_variant(variant)
        rule = check_rule(dict(type="GatedFusion") if fusion is None else fusion)
        self.build(rule, parse_fusion_stages(fusion_stages), options)
        if with_cp:
            for name, modules in self.parts().items():
                # The first layer has nothing before it to keep but the image.
                for module in modules if name not in ("stem", "embed") else ():
                    recompute(module)
        # Convolutions and token-wise layers then share one memory layout, and no stage copies to change it.
        self.to(memory_format=torch.channels_last)

    @abstractmethod
    def build(self, rule: dict, stages: tuple[int, ...], options: dict) -> None:
        """Make the parts and say what leaves: ``out_channels`` and ``strides``."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of each part (stem, stages, embed, segments, fusions) by its name."""

    @classmethod
    def check_options(cls, options: dict) -> None:
        for name in options:
            if name not in cls.option_names:
                own = {known for base in cls.__mro__ if issubclass(base, Backbone) for known in named_arguments(base)}
                near = get_close_matches(name, cls.option_names | own, n=1, cutoff=0.0)[0]
                raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}, did you mean {near!r}?")

    def build_cnn(self, options: dict) -> ResNeXt:
        return ResNeXt(self.cnn_arch, self.in_channels, **select(options, ResNeXt))

    def build_vit(self, options: dict) -> ViT:
        return ViT(self.vit_arch, self.in_channels, **select(options, ViT))

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """How deep a parameter lies, counted from 0 at the input, and the number of layers (mmpretrain's convention).

        The rate of a layer-wise decay is ``decay ** (layers - depth - 1)``. Each trunk counts its own layers: stem and
        four stages, embedding and blocks. The last layer, which is not decayed, is what no trunk brings from its
        pretraining: fusions, the pyramid of ``PlainViT``, and every name that does not begin with ``prefix``, such as
        those of heads.
        """
        trunks = {f"{prefix}{name}.": getattr(self, name) for name in ("cnn", "vit") if hasattr(self, name)}
        for start, trunk in trunks.items():
            if param_name.startswith(start):
                return trunk.get_layer_depth(param_name.removeprefix(start)), trunk.num_layers
        layers = max(trunk.num_layers for trunk in trunks.values())
        return layers - 1, layers

    def get_part(self, param_name: str, prefix: str = "") -> str:
        """Where one of the backbone's parameters belongs: ``cnn.stem``, ``cnn.stages.0``, …, ``vit.embed``,
        ``vit.segments.0``, …, or ``fusion``, which is all that belongs to neither trunk."""
        name = param_name.removeprefix(prefix)
        trunk, _, rest = name.partition(".")
        return f"{trunk}.{getattr(self, trunk).get_part(rest)}" if trunk in ("cnn", "vit") else "fusion"

    def prepare(self, images: Tensor) -> Tensor:
        """Refuse what cannot work, and lay the images out channels_last."""
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit: expected (batch, {self.in_channels}, height, "
                f"width); other channel counts need in_channels=… in the backbone"
            )
        if min(images.shape[-2:]) < SMALLEST_IMAGE:
            raise ValueError(f"images of {images.shape[-2]}×{images.shape[-1]} pixels are too small; at least 32×32")
        return images.contiguous(memory_format=torch.channels_last)


class HybridBackbone(Backbone):
    """A backbone of two trunks: ``cnn`` (``stem``, ``stages``), ``vit`` (``embed``, ``segments``) and four ``fusions``.

    A freshly built hybrid computes what its CNN trunk computes alone: every fusion's way into the CNN starts at zero.
    """

    def build(self, rule: dict, stages: tuple[int, ...], options: dict) -> None:
        self.cnn = self.build_cnn(options)
        self.vit = self.build_vit(options)
        self.out_channels = tuple(feature.channels for feature in self.cnn.features)
        self.strides = tuple(feature.stride for feature in self.cnn.features)
        self.fusions = nn.ModuleList(
            build_fusion(rule, conv, grid)
            for rule, (conv, grid) in zip(self.plan_fusions(rule, stages), self.fusion_streams(), strict=True)
        )

    def plan_fusions(self, rule: dict, stages: tuple[int, ...]) -> list[dict]:
        """The configs of the four fusions.

        Only the CNN's maps leave, so the last exchange always carries the ViT into the CNN: with the rule if stage 4 is
        among ``stages``, else by plain addition. So every part of both trunks is trained, whatever was chosen.
        """
        rules = [rule if stage in stages else dict(type="IdentityFusion") for stage in range(1, NUM_STAGES + 1)]
        return [*rules[:-1], into_cnn(rules[-1])]

    def fusion_streams(self) -> list[tuple[FeatureSpec, FeatureSpec]]:
        """The CNN map and the grid that each of the four fusions joins."""
        return [(feature, self.vit.feature) for feature in self.cnn.features]

    def parts(self) -> dict[str, list[nn.Module]]:
        fusions = {f"fusion {number}": [fusion] for number, fusion in enumerate(self.fusions, start=1)}
        return {**self.cnn.parts(), **self.vit.parts(), **fusions}


def into_cnn(rule: dict) -> dict:
    """The rule as a last exchange: into the CNN, and by addition where there was to be none."""
    idle = rule["type"] in ("IdentityFusion", IdentityFusion)
    return dict(dict(type="AddFusion") if idle else rule, direction="to_cnn")


def select(options: dict, trunk: type[nn.Module]) -> dict:
    """Those options that are the trunk's."""
    return {name: value for name, value in options.items() if name in options_of(trunk)}


def parse_fusion_stages(stages: str | Sequence[int]) -> tuple[int, ...]:
    """``"early"``, ``"late"``, ``"all"`` or stage numbers to sorted stage numbers 1..4."""
    if isinstance(stages, str) and stages in FUSION_STAGES:
        return FUSION_STAGES[stages]
    known = range(1, NUM_STAGES + 1)
    if not isinstance(stages, (list, tuple)) or any(stage not in known for stage in stages):
        raise ValueError(f"fusion_stages {stages!r} is not early, late, all or a list of stages from 1 to {NUM_STAGES}")
    return tuple(sorted(set(stages)))
