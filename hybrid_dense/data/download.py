"""Public data sets from the places that publish them: fetched with resume, checked, unpacked.

    <root>/downloads/<archive>          while it is fetched: <archive>.part; deleted once it is unpacked
    <root>/downloads/<archive>.done     says that it was
    <root>/<folder>/…                   what is in it

An archive that lies in ``downloads`` already, brought by other means, is checked and used; the rest is fetched if it is
shorter than the one published, and it stays as it is if it is another one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
ATTEMPTS = 5
"""Broken connections in a row, without a byte between them, after which it is given up."""

BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""What a connection raises that may work next time."""

Report = Callable[[str, int, int], None]
"""Called with what is done ("fetch val2017.zip"), how much of it and how much there is of it."""


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    ``digest`` is ``"sha256:…"`` or ``"md5:…"``; ``folder`` is where it is unpacked, below the root; ``inside`` is the
    folder that it brings itself.
    """

    url: str
    size: int
    digest: str
    folder: str = ""
    inside: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name


COCO = "http://images.cocodataset.org"
VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
ADE = "http://data.csail.mit.edu/places/ADEchallenge"

# None of the publishers gives checksums. Those of COCO and ADE20K are the sizes and SHA-256 that TensorFlow Datasets
# recorded (tensorflow_datasets/url_checksums/{coco,ade20k}.txt); those of VOC are torchvision's MD5
# (torchvision/datasets/voc.py), with the sizes of the same files in url_checksums/voc.txt.
DATA_SETS: dict[str, tuple[Archive, ...]] = {
    "coco": (
        Archive(
            f"{COCO}/annotations/annotations_trainval2017.zip",
            252_907_541,
            "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            "coco",
        ),
        Archive(
            f"{COCO}/zips/val2017.zip",
            815_585_330,
            "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            "coco",
        ),
        Archive(
            f"{COCO}/zips/train2017.zip",
            19_336_861_798,
            "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            "coco",
        ),
    ),
    "coco-panoptic": (
        Archive(
            f"{COCO}/annotations/panoptic_annotations_trainval2017.zip",
            860_725_834,
            "sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
            "coco",
        ),
    ),
    "voc07": (
        Archive(
            f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "md5:c52e279531787c972589f7e41ab4ae64",
            inside="VOCdevkit",
        ),
        Archive(
            f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "md5:b6e924de25625d8de591ea690078ad9f",
            inside="VOCdevkit",
        ),
    ),
    "voc12": (
        Archive(
            f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
            inside="VOCdevkit",
        ),
    ),
    "ade20k": (
        Archive(
            f"{ADE}/ADEChallengeData2016.zip",
            967_382_037,
            "sha256:7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
            "ade",
            "ADEChallengeData2016",
        ),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where an archive stands below a root."""

    archive: Archive
    root: Path

    @property
    def whole(self) -> Path:
        return self.root / "downloads" / self.archive.name

    @property
    def partial(self) -> Path:
        return self.whole.with_name(self.archive.name + ".part")

    @property
    def done(self) -> Path:
        return self.whole.with_name(self.archive.name + ".done")

    @property
    def fetched(self) -> int:
        """Bytes that are here."""
        return next((path.stat().st_size for path in (self.whole, self.partial) if path.is_file()), 0)

    @property
    def finished(self) -> bool:
        """Whether this very archive was unpacked here."""
        return self.done.is_file() and self.done.read_text().strip() == self.archive.digest

    @property
    def needed(self) -> int:
        """Bytes of disk that are still to be filled: the rest of the archive, and at least as much unpacked."""
        return 0 if self.finished else max(self.archive.size - self.fetched, 0) + self.archive.size


def download(archives: tuple[Archive, ...], root: Path, report: Report, pause: float = 1.0) -> None:
    """Fetch, check and unpack what is not here yet.

    ``pause`` is the time in seconds before a broken connection is tried again; it doubles each time.

    Raises:
        OSError: no network, no room, or another process fetches the same.
        ValueError: the file is not the one that was published, or holds what no data set holds.
    """
    places = [Place(archive, root) for archive in archives]
    check_room(places, root)
    for place in places:
        if place.finished:
            continue
        place.whole.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(root), only_one(place):
            if place.finished:  # by the process that held the lock
                continue
            fetch(place, report, pause)
            unpack(place.whole, root / place.archive.folder, report)
            place.done.write_text(place.archive.digest + "\n")
            place.whole.unlink()


def check_room(places: list[Place], root: Path) -> None:
    """Whether the disk has room for the archives and, one by one, what is in them."""
    needed, free = sum(place.needed for place in places), free_space(root)
    if needed > free:
        raise OSError(f"{gigabytes(needed)} are needed in {root}, {gigabytes(free)} are free; make room or use --to")


def free_space(root: Path) -> int:
    """Bytes free on the disk where ``root`` is or will be."""
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


@contextmanager
def full_disk_named(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"the disk of {root} is full; what was fetched is kept, make room and run it again") from error


@contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Keep other processes off this archive; the lock ends with its process, however that ends."""
    path = place.whole.with_name(place.archive.name + ".lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process is fetching {place.archive.name} into {place.whole.parent}") from None
        yield
        path.unlink()


def fetch(place: Place, report: Report, pause: float) -> None:
    """Bring the archive to `Place.whole`, going on where an earlier attempt ended, and check it."""
    archive = place.archive
    brought = place.whole.is_file() and not is_begun(place)
    failures = 0
    while not place.whole.is_file() and place.fetched < archive.size:
        before = place.fetched
        try:
            receive(place, report)
        except BROKEN as error:
            failures = 0 if place.fetched > before else failures
            failures += 1
            if failures >= ATTEMPTS or is_final(error):
                raise OSError(explain(place, error)) from error
            time.sleep(pause * 2 ** (failures - 1))
    here = place.whole if place.whole.is_file() else place.partial
    found = digest_of(here, archive, report)
    if here.stat().st_size != archive.size or found != archive.digest:
        if brought:
            raise ValueError(
                f"{here} has {here.stat().st_size} bytes and {found}, but {archive.url} was published with "
                f"{archive.size} and {archive.digest}; it is left as it is: move it away and run the command again"
            )
        here.unlink()
        raise ValueError(
            f"{archive.url} came with {found}, not {archive.digest}: damaged on the way or changed where it is "
            "published; it was deleted, run the command again"
        )
    os.replace(here, place.whole)


def is_begun(place: Place) -> bool:
    """Whether the archive that was brought is only the beginning of it; it becomes `Place.partial` then.

    Raises:
        FileExistsError: another beginning is there; nobody knows which one is sound.
    """
    size = place.whole.stat().st_size
    if size >= place.archive.size:
        return False
    if place.partial.exists():
        raise FileExistsError(
            f"{place.whole} has {size} of {place.archive.size} bytes, and {place.partial.name} beside it has "
            f"{place.partial.stat().st_size}; move one of them away and run the command again"
        )
    os.replace(place.whole, place.partial)
    return True


def receive(place: Place, report: Report) -> None:
    """Append to the partial file what the server still has, until the connection ends."""
    archive, have = place.archive, place.fetched
    headers = {"User-Agent": "hybrid-dense", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT) as response:
        if have and response.status != http.client.PARTIAL_CONTENT:
            have = 0  # this server begins anew each time
        if have and not response.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"asked for bytes {have}-, got {response.headers['Content-Range']}")
        total = have + int(response.headers.get("Content-Length", archive.size - have))
        if total != archive.size:
            raise ValueError(f"{archive.url} has {total} bytes, not {archive.size}: it is not the file published")
        with place.partial.open("ab" if have else "wb") as file:
            while have < archive.size:
                chunk = response.read(min(CHUNK, archive.size - have))
                if not chunk:
                    raise ConnectionError(f"the server ended the connection after {have} of {archive.size} bytes")
                file.write(chunk)
                have += len(chunk)
                report(f"fetch {archive.name}", have, archive.size)


def is_final(error: Exception) -> bool:
    """Whether trying again is of no use: the server says that there is no such file, or not for us."""
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 425, 429)


def explain(place: Place, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    host = urlsplit(place.archive.url).hostname
    if isinstance(error, urllib.error.HTTPError):
        return f"{host} answers {error.code} {reason} for {place.archive.url}"
    return (
        f"cannot fetch from {host}: {reason}; {place.fetched} of {place.archive.size} bytes are kept, run it again, or "
        f"bring {place.archive.url} to {place.whole.parent} by other means"
    )


def digest_of(path: Path, archive: Archive, report: Report) -> str:
    """``"sha256:…"``, by the algorithm that the archive's digest names."""
    algorithm = archive.digest.partition(":")[0]
    digest, done, size = hashlib.new(algorithm, usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"check {archive.name}", done, size)
    return f"{algorithm}:{digest.hexdigest()}"


def unpack(path: Path, folder: Path, report: Report) -> None:
    """Unpack a zip or tar file, and the zips in it where they lie (COCO panoptic's folders of PNG), which are deleted.

    Raises:
        ValueError: as `unpack_one`; what is in the outer file stays if it is an inner one that is not sound.
    """
    for name in unpack_one(path, folder, report):
        if name.endswith(".zip"):
            inner = folder / name
            unpack_one(inner, inner.parent, report)
            inner.unlink()


def unpack_one(path: Path, folder: Path, report: Report) -> list[str]:
    """Unpack a zip or tar file: plain files and folders, none outside of ``folder``; returns their names.

    Raises:
        ValueError: neither zip nor tar, or a member that is a link, a device or leads out of the folder; nothing is
            written then.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # macOS puts a folder of its own notes beside what it packs.
            wanted = (info for info in archive.infolist() if not info.filename.startswith("__MACOSX/"))
            members = {info.filename: info for info in wanted if not info.is_dir()}
            kinds = {name: stat.S_IFMT(info.external_attr >> 16) for name, info in members.items()}
            check_names({name for name, kind in kinds.items() if kind in (0, stat.S_IFREG)}, kinds, path)
            write_members(path, folder, {name: info.file_size for name, info in members.items()}, archive.open, report)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = {info.name: info for info in archive if not info.isdir()}
            check_names({name for name, info in members.items() if info.isreg()}, members, path)
            sizes = {name: info.size for name, info in members.items()}
            write_members(path, folder, sizes, lambda name: archive.extractfile(members[name]), report)
    else:
        raise ValueError(f"{path} is neither a zip nor a tar file; delete it and run the command again")
    return list(members)


def check_names(plain: set[str], names: dict, path: Path) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if name not in plain or parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise ValueError(f"{path} holds {name!r}, which is no plain file inside it; nothing was unpacked")


def write_members(
    path: Path, folder: Path, sizes: dict[str, int], opened: Callable[[str], BinaryIO], report: Report
) -> None:
    done, total = 0, sum(sizes.values())
    if total > free_space(folder):
        raise OSError(f"{path.name} unpacks to {gigabytes(total)}, more than is free in {folder}; make room")
    for name, size in sizes.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        done += size
        report(f"unpack {path.name}", done, total)
