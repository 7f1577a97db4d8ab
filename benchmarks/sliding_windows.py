#!/usr/bin/env python
"""Sliding windows of a segmentor: mmseg's, one at a time, beside batches of them; windows a second.

  python benchmarks/sliding_windows.py configs/demo_semantic.py --crop 128 --size 512 512
  python benchmarks/sliding_windows.py configs/semantic/upernet_rx50_vit_s_ade20k_512_160k.py --batch 2 4

Windows overlap by a third, the image is noise, weights are random. The variants take turns, --repeat times after a
warm-up; medians are printed, and how far the logits are from mmseg's, as a share of the largest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.channels import fill_channels
from hybrid_dense.cli.session import read_config, register_host


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--crop", type=int, default=512, help="side of a window")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1024), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, nargs="+", default=(1, 4, 16), help="windows at a time")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    hybrid_dense.register_all_modules()
    cfg = read_config(args.config)
    register_host(cfg)
    fill_channels(cfg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {batch: build(cfg.model, args.crop, batch).to(device) for batch in (None, *args.batch)}
    images = torch.randn(1, 3, *args.size, device=device)
    seconds, logits = measure(models, images, args.repeat)
    windows = count_windows(models[None], images)
    print(f"{args.config.stem}, {windows} windows of {args.crop}², {torch.get_num_threads()} threads, {device}")
    print("| windows at a time | s | windows/s | largest difference |")
    print("|---|---|---|---|")
    for batch, times in seconds.items():
        difference = ((logits[batch] - logits[None]).abs().max() / logits[None].abs().max()).item()
        row = f"{median(times):.3f} | {windows / median(times):.1f} | {difference:.0e}"
        print(f"| {batch or '1 (mmseg)'} | {row} |")
    return 0


def build(model: dict, crop: int, batch: int | None) -> torch.nn.Module:
    """mmseg's segmentor for ``batch`` None, else ours; always with the same weights."""
    test_cfg = dict(mode="slide", crop_size=(crop, crop), stride=(crop * 2 // 3, crop * 2 // 3))
    kind = "EncoderDecoder"
    if batch is not None:
        kind, test_cfg["batch"] = "SlidingEncoderDecoder", batch
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(model, type=kind, test_cfg=test_cfg)).eval()


@torch.no_grad()
def measure(models: dict, images: torch.Tensor, repeat: int) -> tuple[dict, dict]:
    """Seconds of each run and the logits, by windows at a time."""
    seconds, logits = {name: [] for name in models}, {}
    for turn in range(repeat + 1):
        for name, model in models.items():
            start = time.perf_counter()
            logits[name] = infer(model, images)
            if images.is_cuda:
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds, logits


def infer(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    size = tuple(images.shape[2:])
    return model.inference(images, [dict(ori_shape=size, img_shape=size, pad_shape=size)])


def count_windows(model: torch.nn.Module, images: torch.Tensor) -> int:
    """What mmseg's model takes for these images, with an encoder that does nothing."""
    sizes = []

    def encode(crops: torch.Tensor, metas: list[dict]) -> torch.Tensor:
        sizes.append(len(crops))
        return crops.new_zeros(len(crops), model.out_channels, *crops.shape[2:])

    model.encode_decode = encode
    infer(model, images)
    return sum(sizes)


if __name__ == "__main__":
    sys.exit(main())
