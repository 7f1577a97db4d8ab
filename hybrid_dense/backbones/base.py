"""What every hybrid backbone is made of: two trunks, one fusion a stage, and four maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hybrid_dense.archs import CNN_STRIDES, NUM_STAGES, parse_variant
from hybrid_dense.fusion import build_fusion, check_rule
from hybrid_dense.trunks import ResNeXt, ViT

FUSION_STAGES = {"early": (1, 2), "late": (3, 4), "all": (1, 2, 3, 4)}
SMALLEST_IMAGE = 32


class HybridBackbone(BaseModule, ABC):
    """Images (b, in_channels, H, W), H and W at least 32, to the four maps C2..C5.

    Map i is (b, out_channels[i], ⌈H/s⌉, ⌈W/s⌉), s = 4, 8, 16, 32.

    A freshly built hybrid computes what its CNN trunk computes alone: every fusion's way into the CNN starts at zero.

    Args:
        variant: the sizes of both trunks, ``"<cnn>_vit_<vit>"``; see ``hybrid_dense.list_variants()``.
        fusion: the rule, ``dict(type="GatedFusion", direction="both")``; see ``hybrid_dense.list_fusions()``.
        fusion_stages: where the streams exchange: ``"early"`` (1, 2), ``"late"`` (3, 4), ``"all"``, or the stages'
            numbers.
        in_channels: channels of the images.
        window: largest attention window in tokens (a token is 16 pixels); 0 makes every block global.
        drop_path_rate: stochastic depth of the ViT's last block, rising linearly from 0 at its first.
        init_cfg: mmengine's weight initialisation, e.g. ``dict(type="Pretrained", checkpoint=…)``.

    BatchNorm is plain; ``sync_bn="torch"`` in the config synchronises it across GPUs.

    Raises:
        ValueError: unknown variant, fusion stage or direction; images of wrong channels or too small.
    """

    def __init__(
        self,
        variant: str,
        fusion: dict | None = None,
        fusion_stages: str | Sequence[int] = "all",
        in_channels: int = 3,
        window: int = 14,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        cnn_arch, vit_arch = parse_variant(variant)
        self.in_channels = in_channels
        self.out_channels = tuple(feature.channels for feature in cnn_arch.features)
        self.strides = CNN_STRIDES
        self.cnn = ResNeXt(cnn_arch, in_channels)
        self.vit = ViT(vit_arch, in_channels, window, drop_path_rate)
        rule = check_rule(dict(type="GatedFusion") if fusion is None else fusion)
        rules = self.plan_fusions(rule, parse_fusion_stages(fusion_stages))
        self.fusions = nn.ModuleList(
            build_fusion(rule, feature, vit_arch.features)
            for rule, feature in zip(rules, cnn_arch.features, strict=True)
        )
        # Convolutions and token-wise layers then share one memory layout, and no stage copies to change it.
        self.to(memory_format=torch.channels_last)

    @abstractmethod
    def plan_fusions(self, rule: dict, stages: tuple[int, ...]) -> list[dict]:
        """The configs of the four fusions, given the rule and the stages (1..4) that it was asked for."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]: ...

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


def parse_fusion_stages(stages: str | Sequence[int]) -> tuple[int, ...]:
    """``"early"``, ``"late"``, ``"all"`` or stage numbers to sorted stage numbers 1..4."""
    if isinstance(stages, str) and stages in FUSION_STAGES:
        return FUSION_STAGES[stages]
    known = range(1, NUM_STAGES + 1)
    if not isinstance(stages, (list, tuple)) or any(stage not in known for stage in stages):
        raise ValueError(f"fusion_stages {stages!r} is not early, late, all or a list of stages from 1 to {NUM_STAGES}")
    return tuple(sorted(set(stages)))
