#!/usr/bin/env python
"""Write the generated tables of README.md and docs/ anew: `make docs`.

With --check, say what is out of date and change nothing.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.analysis.complexity import count_flops, count_parameters

PROJECT = Path(__file__).parents[1]
README_VARIANTS = [
    "rxnano_vit_pico",
    "rx26_vit_ti",
    "r50_vit_s",
    "rx50_vit_ti",
    "rx50_vit_s",
    "rx50_vit_b",
    "rx101_vit_b",
    "rx152_vit_l",
]
SIZE = 512


def variants_table() -> str:
    lines = [
        f"| variant | CNN (M) | ViT (M) | fusions (M) | backbone (M) | GFLOPs, {SIZE}×{SIZE} | C2 … C5 channels |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in README_VARIANTS:
        with torch.device("meta"):
            backbone = MODELS.build(dict(type="ParallelResNeXtViT", variant=variant)).eval()
            images = torch.zeros(1, 3, SIZE, SIZE)
        flops = count_flops(lambda backbone=backbone, images=images: backbone(images))
        parts = (backbone.cnn, backbone.vit, backbone.fusions, backbone)
        params = " | ".join(f"{count_parameters(part) / 1e6:.1f}" for part in parts)
        channels = ", ".join(map(str, backbone.out_channels))
        lines.append(f"| `{variant}` | {params} | {flops / 1e9:.1f} | {channels} |")
    return "\n".join(lines)


TABLES = {"variants": variants_table}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    hybrid_dense.register_all_modules()
    stale = []
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))):
        old = path.read_text()
        new = re.sub(
            r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
            lambda found: found[1] + TABLES[found[2]]() + "\n" + found[3],
            old,
            flags=re.DOTALL,
        )
        if new != old:
            stale.append(str(path.relative_to(PROJECT)))
            if not check:
                path.write_text(new)
    print(f"{'out of date' if check else 'written'}: {', '.join(stale)}" if stale else "up to date")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
