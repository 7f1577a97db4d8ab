"""Texts without the places of one machine: what is published names folders as anyone would find them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

CACHE = "~/.cache/hybrid_dense"


def scrub(text: str, others: Mapping[str, str] | None = None) -> str:
    """Replace the folders of this machine in a text.

    The data (``HYBRID_DENSE_DATA``) and the cache become ``$HYBRID_DENSE_DATA`` and ``$HYBRID_DENSE_CACHE``, what lies
    below the current folder relative, Python's own folder ``$PYTHON`` and the home ``~``.

    Args:
        text: the text.
        others: folder → word, for what lies outside of these; relative folders stay.
    """
    outside = [(folder.rstrip("/"), word) for folder, word in (others or {}).items() if folder.startswith("/")]
    for folder, word in [*_places(), *outside]:
        # A whole path only, or its beginning: /root is no part of /opt/root.
        form = re.compile(rf"(?<![\w.~$/-]){re.escape(folder)}(/|(?![\w-]|\.\w))")
        text = form.sub(lambda found, word=word: f"{word}{found[1]}" if word else "" if found[1] else ".", text)
    return text


def _places() -> list[tuple[str, str]]:
    """Folders and their words, the longest first; each as it is written and as it is on disk."""
    cache = os.environ.get("HYBRID_DENSE_CACHE") or Path(CACHE).expanduser()
    named = [
        (os.environ.get("HYBRID_DENSE_DATA"), "$HYBRID_DENSE_DATA"),
        (cache, "$HYBRID_DENSE_CACHE"),
        (Path.cwd(), ""),
        (sys.prefix, "$PYTHON"),
        (sys.base_prefix, "$PYTHON"),
        (Path.home(), "~"),
    ]
    places: dict[str, str] = {}
    for folder, word in named:
        for form in (Path(folder).absolute(), Path(folder).resolve()) if folder else ():
            places.setdefault(str(form), word)
    # A root or a folder right below it may be part of any other path.
    long = [(folder, word) for folder, word in places.items() if len(folder) > len("/usr")]
    return sorted(long, key=lambda pair: -len(pair[0]))
