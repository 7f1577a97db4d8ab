"""Imported first by the scripts here: where their Python lacks the package, they go on in the one that `make` made."""

import importlib.util
import os
import sys
from pathlib import Path

OWN = Path(__file__).resolve().parents[1] / ".venv/bin/python"

if importlib.util.find_spec("hybrid_dense") is None:
    if not OWN.exists() or Path(sys.prefix) == OWN.parents[1]:
        sys.exit(f"{sys.argv[0]}: {sys.executable} has no hybrid_dense; `make setup` makes a Python that has it")
    os.execv(OWN, [str(OWN), *sys.argv])
