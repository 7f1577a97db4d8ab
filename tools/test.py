#!/usr/bin/env python3
"""`tools/test.py …` is `hybrid-dense test …`; torchrun and Slurm start this file."""

import sys

import own_python  # noqa: F401

from hybrid_dense.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("test"))
