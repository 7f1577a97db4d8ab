#!/usr/bin/env python
"""How time and memory of one training step grow with the image: 1024×1024 against 512×512.

  python benchmarks/growth.py                          # rx50_vit_s, one image, forward and backward
  python benchmarks/growth.py --variant rxnano_vit_pico --sizes 128 256 --repeat 3

Rows: full global attention, pooled global attention, activation checkpointing. Every measurement runs in a process of
its own, and the two sizes of a row take turns, so that a busy machine slows both down. Memory is the peak above what
the process held before the step: of the GPU where there is one, else of the process. Ratios carry over to other
machines, seconds do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ROWS = {
    "full": dict(),
    "pooled": dict(global_attention="pooled"),
    "full, with_cp": dict(with_cp=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="ParallelResNeXtViT")
    parser.add_argument("--variant", default="rx50_vit_s")
    parser.add_argument("--sizes", type=int, nargs=2, default=(512, 1024), metavar=("SMALL", "LARGE"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="processes a size and row; the median counts")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="measure these rows only")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast, as training uses where it is native")
    parser.add_argument(
        "--give-memory-back", action="store_true", help="leave the C library's allocator as it is, unlike training"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_step(**json.loads(args.measure))))
        return 0
    found = {}
    for row in args.rows:
        for _ in range(args.repeat):
            for size in args.sizes:
                config = dict(type=args.topology, variant=args.variant, **ROWS[row])
                order = dict(config=config, size=size, batch=args.batch, threads=args.threads)
                order.update(amp=args.amp, keep_memory=not args.give_memory_back)
                command = [sys.executable, __file__, "--measure", json.dumps(order)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault((row, size), []).append(json.loads(done.stdout.splitlines()[-1]))
                seconds, memory = found[row, size][-1]
                print(f"  {row}, {size}×{size}: {seconds:.2f} s, {memory:.2f} GiB", file=sys.stderr, flush=True)
    print_table(
        args, {key: [statistics.median(values) for values in zip(*runs, strict=True)] for key, runs in found.items()}
    )
    return 0


def print_table(args: argparse.Namespace, found: dict) -> None:
    small, large = args.sizes
    print(
        f"{args.topology} {args.variant}, batch {args.batch}, forward and backward in training mode"
        + (", bfloat16" if args.amp else ", float32")
    )
    print(f"| | {small}²: s | GiB | {large}²: s | GiB | time × | memory × |")
    print("|---|---|---|---|---|---|---|")
    for row in args.rows:
        (time, memory), (large_time, large_memory) = found[row, small], found[row, large]
        growth = f"{large_time / time:.2f} | {large_memory / memory:.2f}"
        print(f"| {row} | {time:.2f} | {memory:.2f} | {large_time:.2f} | {large_memory:.2f} | {growth} |")
    for size in args.sizes if {"full", "full, with_cp"} <= set(args.rows) else ():
        saved = found["full, with_cp", size][1] / found["full", size][1]
        print(f"memory with checkpointing at {size}×{size}: {saved:.0%} of that without")


def measure_step(
    config: dict, size: int, batch: int, threads: int, amp: bool, keep_memory: bool
) -> tuple[float, float]:
    """Seconds and peak GiB of one training step; two untimed ones go before, so that every buffer exists."""
    import resource
    import time

    import torch
    from mmengine.registry import MODELS

    import hybrid_dense
    from hybrid_dense.engine.allocator import keep_freed_memory

    hybrid_dense.register_all_modules()
    if keep_memory:
        keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    backbone = MODELS.build(config).to(device).train()
    images = torch.randn(batch, 3, size, size, device=device)

    shapes = [
        (batch, channels, -(-size // stride), -(-size // stride))
        for channels, stride in zip(backbone.out_channels, backbone.strides, strict=True)
    ]
    # What a loss would hand back; a loss of our own would be measured with the backbone.
    gradients = [torch.randn(shape, device=device) for shape in shapes]

    def step() -> None:
        torch.autograd.backward(forward(images), gradients)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return tuple(level.float() for level in backbone(images))

    # A small image first: parameters' gradients and thread pools are there before anything is measured.
    sum(level.mean() for level in forward(images[..., :64, :64].repeat(2, 1, 1, 1))).backward()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident_bytes()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, (peak - before) / 2**30


def resident_bytes() -> int:
    import resource

    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
