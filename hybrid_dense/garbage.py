"""Python's garbage collector at rest, where all objects stay or die without it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Do not look for cycles in here.

    Imports and configs make objects that all stay: looking took a quarter of a start. An evaluation of COCO makes
    millions without a cycle: looking took a third of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
