"""Parts that this package computes otherwise than torch would, beside torch's own form, on a CPU.

  python benchmarks/parts.py                # one thread, bfloat16
  python benchmarks/parts.py --dtype float32

Both forms take turns; the smallest of several times counts, in milliseconds. "At inference" is a forward pass alone,
all else a forward and a backward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_dense.engine.allocator import keep_freed_memory
from hybrid_dense.layers.attention import AttendInChunks, attend_by_products
from hybrid_dense.layers.fold import fold_batch_norm
from hybrid_dense.layers.grouped_conv import merge_groups
from hybrid_dense.layers.layout import ChannelsFirst

HEADS, WIDTH = 6, 64
WINDOWS = ((9, 121), (25, 169), (1, 1024), (1, 4096))
"""Windows and tokens of each: ViT-S at 512 and 1024 pixels, in windows and in global blocks."""
CONVOLUTIONS = ((128, 128, 1), (256, 128, 2), (256, 64, 1))
"""Channels, side and stride of 3×3 convolutions of ResNeXt-50 at 512 pixels; 32 groups. The layer merges the first."""
FOLDED = ((128, 128), (256, 64), (512, 32), (1024, 16))
"""Channels and side of the 3×3 convolutions of ResNeXt-50's stages at 512 pixels; 32 groups, BatchNorm behind them."""
MAPS = ((256, 128), (512, 64), (256, 256))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    dtype = getattr(torch, args.dtype)
    print(f"{args.dtype}, {args.threads} threads, ms")
    print("| part | torch | ours | |\n|---|---|---|---|")
    for name, forms in (*attentions(dtype), *convolutions(dtype), *inference(dtype), *layouts(dtype)):
        theirs, own = take_turns(forms, args.repeat)
        print(f"| {name} | {theirs:.1f} | {own:.1f} | {theirs / own:.1f} × |", flush=True)
    return 0


def attentions(dtype: torch.dtype):
    for windows, tokens in WINDOWS:
        query, key, value = leaves((windows, HEADS, tokens, WIDTH), dtype, 3)
        ours = {"products": attend_by_products}
        if tokens > 2048:
            ours["in chunks"] = AttendInChunks.apply
        for name, attend in ours.items():
            forms = [
                both_ways(lambda q=query, k=key, v=value: F.scaled_dot_product_attention(q, k, v)),
                both_ways(lambda a=attend, q=query, k=key, v=value: a(q, k, v, None)),
            ]
            yield f"attention {name}, {windows} × {tokens} tokens", forms


def convolutions(dtype: torch.dtype):
    for channels, side, stride in CONVOLUTIONS:
        (features,) = leaves((1, channels, side, side), dtype, 1)
        width = channels // 32
        (weight,) = leaves((channels, width, 3, 3), dtype, 1)
        merged = 16 // width
        forms = [
            both_ways(lambda x=features, w=weight, s=stride: F.conv2d(x, w, None, s, 1, 1, 32)),
            both_ways(
                lambda x=features, w=weight, s=stride, m=merged: F.conv2d(
                    x, merge_groups(w, 32, m), None, s, 1, 1, 32 // m
                )
            ),
        ]
        yield f"3×3 convolution, {channels} channels at {side}×{side}, stride {stride}", forms


def inference(dtype: torch.dtype):
    for channels, side in FOLDED:
        features = torch.randn(1, channels, side, side).to(dtype=dtype, memory_format=torch.channels_last)
        conv, norm = nn.Conv2d(channels, channels, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(channels)
        conv.to(dtype=dtype, memory_format=torch.channels_last)
        plain = nn.Sequential(conv, norm).eval()
        folded = deepcopy(plain)
        fold_batch_norm(folded)
        name = f"3×3 convolution at inference, {channels} channels at {side}×{side}"
        yield f"{name}, BatchNorm folded", [ahead(plain, features), ahead(folded, features)]
        merged = nn.Conv2d(channels, channels, 3, padding=1, groups=16, bias=False)
        merged.weight.data = merge_groups(conv.weight, 32, 2).contiguous(memory_format=torch.channels_last)
        yield f"{name}, groups merged in pairs", [ahead(conv, features), ahead(merged, features)]


def layouts(dtype: torch.dtype):
    for channels, side in MAPS:
        (features,) = leaves((1, channels, side, side), dtype, 1)
        plain = features.detach()
        forms = [
            lambda x=plain: x.contiguous().contiguous(memory_format=torch.channels_last),
            both_ways(lambda x=features: ChannelsFirst.apply(x)),
        ]
        yield f"channels first and back, {channels} channels at {side}×{side}", forms


def leaves(shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    """Tensors that gradients end at; maps are channels_last."""
    form = torch.channels_last if shape[0] == 1 and shape[1] > HEADS else torch.contiguous_format
    made = [torch.randn(shape).to(dtype=dtype, memory_format=form) for _ in range(count)]
    return [tensor.requires_grad_() for tensor in made]


def both_ways(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """A forward pass and its backward pass for a given gradient."""
    gradient = torch.randn_like(forward(), memory_format=torch.contiguous_format)
    return lambda: forward().backward(gradient)


def ahead(module: nn.Module, features: Tensor) -> Callable[[], None]:
    """A forward pass without gradients."""

    @torch.inference_mode()
    def run() -> None:
        module(features)

    return run


def take_turns(forms: list[Callable[[], object]], repeat: int) -> list[float]:
    times = [[] for _ in forms]
    for _ in range(repeat + 1):  # the first round warms up
        for own, form in zip(times, forms, strict=True):
            start = time.perf_counter()
            form()
            own.append(time.perf_counter() - start)
    return [1000 * min(own[1:]) for own in times]


if __name__ == "__main__":
    sys.exit(main())
