"""`python -m hybrid_dense …` is `hybrid-dense …`."""

import sys

from hybrid_dense.cli import main

if __name__ == "__main__":
    sys.exit(main())
