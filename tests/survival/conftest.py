"""What is killed, starved of space or interrupted here is mostly the toy training of tests/engine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
