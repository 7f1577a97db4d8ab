"""What a look at a data set can find, as a contract: one `Finding` for each thing that is wrong."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the image."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: the check that found it, a row of `hybrid_dense.data.checks.table.CHECKS`.
        severity: "error" (what is learned or measured is wrong, or it stops), "warning" or "note".
        split: "train", "val", … or the splits of a leak, "train, val".
        file: the image, mask or annotation file.
        message: one line that names the value.
        box_id: the annotation's id, or its place in the file.
        box: the box as a loader sees it, in pixels.
    """

    kind: str
    severity: str
    split: str
    file: str
    message: str
    box_id: str | None = None
    box: Corners | None = None

    def __str__(self) -> str:
        return f"{self.split}: {self.file}: {self.message} [{self.kind}]"

    def to_json(self) -> dict:
        """As a dict that strict JSON can hold: NaN and infinity become None; the message still names them."""
        found = asdict(self)
        if self.box is not None:
            found["box"] = [value if math.isfinite(value) else None for value in self.box]
        return found
