"""Bring a feature map of one stride to another: exact powers of two, so that both stay aligned for any image size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_stride(features: Tensor, stride: int, target: int, size: tuple[int, int]) -> Tensor:
    """Resample (b, c, ⌈H/stride⌉, ⌈W/stride⌉) to (b, c, *size), the map of the same image at stride ``target``.

    Downwards it averages whole cells (a cell that the image only partly fills counts what is there); upwards it is
    bilinear, and what lies beyond the image's edge is cut off.
    """
    if target > stride:
        factor = target // stride
        whole = features.shape[-2] % factor == features.shape[-1] % factor == 0
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if whole and features.device.type == "cpu" and not traced:
            return AveragedCells.apply(features, factor)
        return F.avg_pool2d(features, factor, factor, ceil_mode=True, count_include_pad=False)
    if target < stride:
        features = F.interpolate(features, scale_factor=stride // target, mode="bilinear", align_corners=False)
        # A slice of everything would cost a copy in the backward pass.
        return features if features.shape[-2:] == size else features[..., : size[0], : size[1]]
    return features


class AveragedCells(torch.autograd.Function):
    """``F.avg_pool2d`` over whole cells, whose gradient is spread in one pass; torch's own on a CPU takes several
    times as long on channels_last maps."""

    @staticmethod
    def forward(features: Tensor, factor: int) -> Tensor:
        return F.avg_pool2d(features, factor)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, ctx.factor = inputs

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        cells = (gradient / ctx.factor**2).permute(0, 2, 3, 1)[:, :, None, :, None]
        spread = cells.expand(-1, -1, ctx.factor, -1, ctx.factor, -1).flatten(3, 4).flatten(1, 2)
        return spread.permute(0, 3, 1, 2), None
