#!/usr/bin/env python
"""`python tools/train.py …` is `hybrid-dense train …`; torchrun and Slurm start this file."""

import sys

from hybrid_dense.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("train"))
