"""Read what a study has kept."""

from __future__ import annotations

import json
from pathlib import Path


def read_json(path: Path):
    """The content of a JSON file; a damaged one is named, with the mend.

    Raises:
        ValueError: the file is not JSON, as after a copy that broke off.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move it away, and the same command makes it anew") from None
