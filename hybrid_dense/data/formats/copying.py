"""Images go from one data set to another as they are: never decoded, so never changed."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_image(source: Path, target: Path, link: bool) -> None:
    """Copy an image, or point to it; the same image twice is one.

    Raises:
        ValueError: another file lies there already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() or target.is_symlink():
        if target.exists() and (target.samefile(source) or target.read_bytes() == source.read_bytes()):
            return
        raise ValueError(f"{target} is there already and is another image than {source}; name an empty folder")
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)
