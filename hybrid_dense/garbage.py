"""Python's garbage collector at rest, where all objects stay or die without it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Do not look for cycles in here.

    Imports and configs make objects that all stay, an evaluation of COCO millions without a cycle; looking through them
    took a good part of both.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
