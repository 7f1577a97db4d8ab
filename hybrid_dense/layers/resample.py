"""Bring a feature map of one stride to another: exact powers of two, so that both stay aligned for any image size."""

import torch.nn.functional as F
from torch import Tensor


def to_stride(features: Tensor, stride: int, target: int, size: tuple[int, int]) -> Tensor:
    """Resample (b, c, ⌈H/stride⌉, ⌈W/stride⌉) to (b, c, *size), the map of the same image at stride ``target``.

    Downwards it averages whole cells (a cell that the image only partly fills counts what is there); upwards it is
    bilinear, and what lies beyond the image's edge is cut off.
    """
    if target > stride:
        factor = target // stride
        return F.avg_pool2d(features, factor, factor, ceil_mode=True, count_include_pad=False)
    if target < stride:
        features = F.interpolate(features, scale_factor=stride // target, mode="bilinear", align_corners=False)
        # A slice of everything would cost a copy in the backward pass.
        return features if features.shape[-2:] == size else features[..., : size[0], : size[1]]
    return features
