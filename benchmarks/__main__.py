"""`python -m benchmarks …` is `hybrid-dense benchmark …`."""

import sys

from hybrid_dense.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("benchmark"))
