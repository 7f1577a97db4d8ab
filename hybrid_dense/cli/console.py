"""What reaches the terminal of a command: not the noise of other programs and, unless asked for, not mmengine's dumps.

Log files get all of it, whatever the terminal shows.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

# A line of mmdet or mmseg where a library of theirs is not installed; a warning of torch about an argument of mmengine.
NOISE = (r"Could not import OneDL(\. Skipping OneDL datasets\.)?",)
WARNINGS = (("`broadcast_buffers` is deprecated", FutureWarning),)
# What mmengine logs before the first step, 560 lines of it, what it warns of in itself (`--strategy` needs a registry
# that the hosts do not have), and what pycocotools prints whenever it opens a file.
_LOGGED = r"\d\d/\d\d [\d:]{8} - mmengine - \S+ - "
PRELUDE = (
    _LOGGED + r"\n-{60}\nSystem environment:.*",
    _LOGGED + r"Config:\n.*",
    _LOGGED + r"Hooks will be executed in the following order:\n.*",
    _LOGGED + r'"(FileClient|HardDiskBackend)" (will be deprecated|is the alias).*',
    _LOGGED + r'Failed to search registry with scope "mm(det|seg)" in the "strategy" registry tree\..*',
    r"loading annotations into memory\.\.\.",
    r"Done \(t=[\d.]+s\)",
    r"creating index\.\.\.",
    r"index created!",
)

# What mmengine logs of each parameter with a rate or decay of its own.
PARAMETERS = (_LOGGED + r"paramwise_options -- .*",)


class Sieve:
    """A text stream that lets pass what does not match, whole, one of ``patterns``; in all else it is ``stream``.

    A pattern is compared with what one call writes, without its line end: that is what `print` and a log handler hand
    over at once.
    """

    def __init__(self, stream, patterns: Sequence[str]):
        self._stream = stream
        # Without patterns nothing matches: an empty alternative would be an empty line.
        self._pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)", re.DOTALL)
        self._dropped = False

    def write(self, text: str) -> int:
        if self._dropped and text == "\n":  # `print` writes the end of a line on its own
            self._dropped = False
            return len(text)
        found = self._pattern.fullmatch(text.removesuffix("\n"))
        self._dropped = found is not None and not text.endswith("\n")
        return len(text) if found else self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextmanager
def without(patterns: Sequence[str]) -> Iterator[None]:
    """Keep from standard output what matches one of these patterns."""
    with redirect_stdout(Sieve(sys.stdout, patterns)):
        yield


@contextmanager
def without_noise() -> Iterator[None]:
    """Keep from the terminal what is in ``NOISE`` and ``WARNINGS``, and nothing else."""
    with without(NOISE), warnings.catch_warnings():
        for message, category in WARNINGS:
            warnings.filterwarnings("ignore", re.escape(message), category)
        yield
