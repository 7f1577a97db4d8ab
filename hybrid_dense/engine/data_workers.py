"""What the data workers of this process are doing, as far as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path

_STATES = {
    "R": "computing",
    "S": "sleeping",
    "D": "waiting for a disk or network file system",
    "Z": "dead",
    "X": "dead",
    "T": "stopped",
    "t": "stopped by a debugger",
    "I": "idle",
}
_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".npz")


def describe_data_workers() -> list[str]:
    """One text a worker: process, state, CPU seconds, the image that it has open; [] without workers or without /proc.

    A worker is known by the name that torch gives it, and a dead one by being a child that nobody has collected.
    """
    texts = []
    for process in _children():
        try:
            name, fields = _read_stat(process)
            if name != "pt_data_worker" and fields[0] != "Z":
                continue
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            state = _STATES.get(fields[0], fields[0])
            opened = _open_images(process)
        except OSError:  # it ended while we looked
            continue
        texts.append(
            f"process {process} {state}, {seconds:.1f} s of CPU time" + (f", reading {opened[0]}" if opened else "")
        )
    return texts


def _children() -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(_read_stat(int(path.parent.name))[1][1]) == os.getpid():
                children.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(children)


def _read_stat(process: int) -> tuple[str, list[str]]:
    """Name of a process and the fields of its stat file from the state on; the name may hold spaces and parentheses."""
    text = Path(f"/proc/{process}/stat").read_text()
    return text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 1 :].split()


def _open_images(process: int) -> list[str]:
    folder = Path(f"/proc/{process}/fd")
    try:
        files = [os.readlink(link) for link in folder.iterdir()]
    except OSError:
        return []
    return [file for file in files if file.lower().endswith(_IMAGES)]
