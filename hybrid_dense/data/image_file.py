"""What is in an image file: by its first and last bytes where that is enough, by decoding it where it is not."""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

TAIL = 4096
THUMBNAIL = 16  # pixels of a side
MIN_CONTRAST = 4  # standard deviation in grey levels under which all thumbnails look alike
END = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}
MAGIC = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
}
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
# What Pillow raises over a damaged file; SyntaxError comes from PNG chunks.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)


@dataclass(frozen=True)
class Look:
    """What a look at a file told.

    Attributes:
        missing: there is no such file.
        unreadable: why the system or the decoder cannot read it, else None.
        bytes: its length.
        format: "JPEG", "PNG", … by its first bytes; None for none of these.
        cut_off: why the file is not whole, else None.
        stored: (width, height) as stored.
        orientation: EXIF's, 1 for upright.
        mode: Pillow's: "RGB", "L", "P", "I;16", …
        giant: why it is too large to be decoded, else None.
        thumbnail: float32 (256,), grey, mean 0, length 1: to tell near copies; None if not decoded or without contrast.
        values: pixel value → number of pixels, of a decoded mask.
    """

    missing: bool = False
    unreadable: str | None = None
    bytes: int = 0
    format: str | None = None
    cut_off: str | None = None
    stored: tuple[int, int] | None = None
    orientation: int = 1
    mode: str | None = None
    giant: str | None = None
    thumbnail: np.ndarray | None = None
    values: dict[int, int] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) as the hosts' loader gives it: turned upright."""
        return self.stored[::-1] if self.stored and self.orientation in TURNED else self.stored


def look_at(path: Path, decode: bool = False, mask: bool = False) -> Look:
    """Look at an image file; ``decode`` reads all of its pixels, and counts their values where it is a mask."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
            return Look(unreadable="not a regular file")
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError:
        return Look(missing=True)
    except OSError as error:
        return Look(unreadable=error.strerror)
    found = {"bytes": state.st_size, "format": format_of(head)}
    if found["format"] is None:
        return Look(**found)
    try:
        with Image.open(path) as image:
            found |= {"stored": image.size, "mode": image.mode}
            found["orientation"] = orientation(image)
            found["cut_off"] = cut_off(path)
            if decode and found["cut_off"] is None:
                image.load()
                found["values" if mask else "thumbnail"] = count_values(image) if mask else thumbnail(image)
    except Image.DecompressionBombError as error:
        found["giant"] = str(error)
    except DECODE_ERRORS as error:
        # A file cut off within its header cannot be opened at all.
        found["cut_off"] = cut_off(path)
        found["unreadable"] = None if found["cut_off"] else first_line(error)
    return Look(**found)


def format_of(head: bytes) -> str | None:
    """The format that a file's first bytes (12 are enough) belong to."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, starts in MAGIC.items() if head.startswith(starts)), None)


def cut_off(path: Path) -> str | None:
    """Why a JPEG, PNG or WebP file is not whole; None if it is, or is of another format.

    The end of the file is read. Where the mark of the end is not in its place, the file is decoded, since cameras write
    behind it.
    """
    with path.open("rb") as file:
        head = file.read(32)
        length = file.seek(0, 2)
        file.seek(max(0, length - TAIL))
        tail = file.read()
    known = format_of(head)
    if known == "WEBP":
        announced = int.from_bytes(head[4:8], "little") + 8
        return f"{length} of {announced} bytes are there" if length < announced else None
    if known not in END or END[known] in tail.rstrip(b"\0")[-len(END[known]) :]:
        return None
    try:
        with Image.open(path) as image:
            image.load()
    except Image.DecompressionBombError:
        return None
    except DECODE_ERRORS as error:
        return first_line(error)
    return None


def digest(path: Path) -> str:
    """A hash of the file's bytes."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none or its block is damaged, as loaders take it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DECODE_ERRORS:
        return 1


def thumbnail(image: Image.Image) -> np.ndarray | None:
    """16 × 16 grey levels as a unit vector with mean 0, float32 (256,); None for an image without contrast."""
    small = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32).ravel()
    small -= small.mean()
    length = np.linalg.norm(small)
    return small / length if length > THUMBNAIL * MIN_CONTRAST else None


def count_values(mask: Image.Image) -> dict[int, int] | None:
    """Pixels of each value of a mask of one channel; None for more channels. A palette's indices are its values."""
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind == "f":
        return None
    if values.dtype.itemsize == 1:
        counts = np.bincount(values.view(np.uint8).ravel())
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def first_line(error: BaseException) -> str:
    """An error in one line; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
