"""Seconds as a reader wants them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Two units at most: ``8.2 s``, ``3 min 05 s``, ``5 h 20 min``, ``2 d 04 h``."""
    if round(seconds) < 60:
        return f"{seconds:.1f} s"
    if round(seconds / 60) < 60:
        return "{} min {:02d} s".format(*divmod(round(seconds), 60))
    if round(seconds / 3600) < 48:
        return "{} h {:02d} min".format(*divmod(round(seconds / 60), 60))
    return "{} d {:02d} h".format(*divmod(round(seconds / 3600), 24))
