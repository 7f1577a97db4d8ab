#!/usr/bin/env python
"""torchrun's arguments, and restarts only where they help; tools/dist_launch.sh starts this file."""

import sys

if __name__ == "__main__":
    # Under this name the package does not register its models: the launcher builds none.
    sys.argv[0] = "hybrid-dense"
    from hybrid_dense.engine.elastic import main

    sys.exit(main())
