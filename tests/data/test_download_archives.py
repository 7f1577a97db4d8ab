"""Downloads against a server of our own: resumed, checked, unpacked; broken in every way a network breaks."""

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybrid_dense.data import download as module
from hybrid_dense.data.download import DATA_SETS, Archive, Place, download, unpack


def silent(what, done, total):
    assert 0 <= done <= total


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


CONTENT = zip_of(pictures__a=b"a" * 300_000, pictures__b=b"b" * 200_000)


class Server(ThreadingHTTPServer):
    """Serves one file; knows Range, and may break off after so many bytes of each of the first answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.status = CONTENT, [], True, None
        self.asked: list[str | None] = []

    @property
    def archive(self) -> Archive:
        digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        return Archive(f"http://127.0.0.1:{self.server_address[1]}/some/pictures.zip", len(CONTENT), digest, "set")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fetches_unpacks_and_does_it_once(server, tmp_path):
    steps = set()
    for _ in range(2):
        download((server.archive,), tmp_path, lambda what, done, total: steps.add(what))
    assert server.asked == [None]
    assert (tmp_path / "set/pictures/a").read_bytes() == b"a" * 300_000
    assert steps == {"fetch pictures.zip", "check pictures.zip", "unpack pictures.zip"}
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["pictures.zip.done"]


def test_a_broken_connection_goes_on_where_it_ended(server, tmp_path):
    server.breaks = [100_000, 150_000, 0]
    download((server.archive,), tmp_path, silent, pause=0.01)
    assert server.asked == [None, "bytes=100000-", "bytes=250000-", "bytes=250000-"]
    assert (tmp_path / "set/pictures/b").read_bytes() == b"b" * 200_000


def test_a_later_run_goes_on_too(server, tmp_path):
    server.breaks = [120_000] + [0] * module.ATTEMPTS
    with pytest.raises(OSError, match=r"cannot fetch from 127.0.0.1: .*120000 of \d+ bytes are kept"):
        download((server.archive,), tmp_path, silent, pause=0.001)
    server.breaks, server.asked = [], []
    download((server.archive,), tmp_path, silent)
    assert server.asked == ["bytes=120000-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.breaks, server.ranges = [100_000], False
    download((server.archive,), tmp_path, silent, pause=0.01)
    assert (tmp_path / "set/pictures/a").stat().st_size == 300_000


def test_a_wrong_checksum_is_named_and_the_file_deleted(server, tmp_path):
    server.content = CONTENT[:1000] + b"x" + CONTENT[1001:]
    with pytest.raises(ValueError, match=r"came with sha256:\w+, not sha256:\w+: .*run the command again"):
        download((server.archive,), tmp_path, silent)
    assert not list((tmp_path / "downloads").glob("*.zip*part")) and not (tmp_path / "set").exists()
    server.content = CONTENT
    download((server.archive,), tmp_path, silent)


def test_another_file_under_the_same_name_is_not_fetched(server, tmp_path):
    server.content = CONTENT + b"more"
    with pytest.raises(ValueError, match=f"has {len(CONTENT) + 4} bytes, not {len(CONTENT)}"):
        download((server.archive,), tmp_path, silent)


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, module.ATTEMPTS)])
def test_what_the_server_answers_is_said(server, tmp_path, status, asked):
    server.status = status
    with pytest.raises(OSError, match=f"127.0.0.1 answers {status} "):
        download((server.archive,), tmp_path, silent, pause=0.001)
    assert len(server.asked) == asked  # what is not there will not come by asking again


def test_no_network_says_what_else_to_do(tmp_path):
    archive = Archive("http://127.0.0.1:9/x.zip", 10, "md5:0", "")
    with pytest.raises(OSError, match=r"cannot fetch from 127.0.0.1: .*refused; .*by other means") as error:
        download((archive,), tmp_path, silent, pause=0.001)
    assert "\n" not in str(error.value)


def test_an_archive_brought_by_other_means_is_used(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/pictures.zip").write_bytes(CONTENT)
    download((server.archive,), tmp_path, silent)
    assert not server.asked and (tmp_path / "set/pictures/a").is_file()


def test_the_beginning_of_an_archive_that_was_brought_is_gone_on_with(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/pictures.zip").write_bytes(CONTENT[:90_000])
    download((server.archive,), tmp_path, silent)
    assert server.asked == ["bytes=90000-"] and (tmp_path / "set/pictures/b").is_file()


def test_no_network_keeps_the_beginning_that_was_brought(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/x.zip").write_bytes(b"1234567")
    with pytest.raises(OSError, match="7 of 10 bytes are kept"):
        download((Archive("http://127.0.0.1:9/x.zip", 10, "md5:0"),), tmp_path, silent, pause=0.001)
    assert (tmp_path / "downloads/x.zip.part").read_bytes() == b"1234567"


def test_of_two_beginnings_none_is_lost(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/pictures.zip").write_bytes(CONTENT[:90_000])
    (tmp_path / "downloads/pictures.zip.part").write_bytes(CONTENT[:100_000])
    with pytest.raises(FileExistsError, match=r"has 90000 of \d+ bytes, and pictures.zip.part .* has 100000; move one"):
        download((server.archive,), tmp_path, silent)
    assert (tmp_path / "downloads/pictures.zip").stat().st_size == 90_000


@pytest.mark.parametrize("content", [CONTENT + b"more", b"x" * len(CONTENT)], ids=["longer", "other"])
def test_another_archive_that_was_brought_is_named_and_kept(server, tmp_path, content):
    (tmp_path / "downloads").mkdir()
    brought = tmp_path / "downloads/pictures.zip"
    brought.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"pictures.zip has {len(content)} bytes and sha256:\w+, but .* left as it is"
    ):
        download((server.archive,), tmp_path, silent)
    assert brought.read_bytes() == content and not server.asked


def test_a_full_disk_is_known_before_and_named_after(server, tmp_path, monkeypatch):
    huge = replace(server.archive, size=1 << 60)
    with pytest.raises(OSError, match=r"GB are needed in .*, .* GB are free"):
        download((huge,), tmp_path, silent)
    assert not server.asked

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "receive", full)
    with pytest.raises(OSError, match="is full; what was fetched is kept"):
        download((server.archive,), tmp_path, silent)


def test_two_processes_do_not_fetch_the_same(server, tmp_path):
    place = Place(server.archive, tmp_path)
    (tmp_path / "downloads").mkdir()
    with module.only_one(place), pytest.raises(OSError, match="another process is fetching pictures.zip"):
        download((server.archive,), tmp_path, silent)


# --- archives that mean harm ---


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def plain(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = 3
    return info


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("inside")
    info.type, info.linkname = kind, "/etc"
    return info


@pytest.mark.parametrize(
    "member",
    [plain("../out"), plain("/tmp/out"), plain("a/../../out"), link(tarfile.SYMTYPE), link(tarfile.LNKTYPE)],
    ids=["up", "absolute", "up and down", "symlink", "hard link"],
)
def test_nothing_is_unpacked_outside_or_as_a_link(tmp_path, member):
    path = tar_of(tmp_path / "x.tar", plain("good"), member)
    with pytest.raises(ValueError, match="no plain file inside it; nothing was unpacked"):
        unpack(path, tmp_path / "to", silent)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "..\\out"])
def test_zips_are_watched_too(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good", b"x")
        archive.writestr(name, b"x")
    with pytest.raises(ValueError, match="no plain file inside it"):
        unpack(tmp_path / "x.zip", tmp_path / "to", silent)


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="no plain file inside it"):
        unpack(tmp_path / "x.zip", tmp_path / "to", silent)


def test_zips_in_a_zip_are_unpacked_where_they_lie(tmp_path):
    inner = io.BytesIO(zip_of(panoptic_val2017__a_png=b"pixels"))
    with zipfile.ZipFile(inner, "a") as archive:
        archive.writestr("__MACOSX/panoptic_val2017/._a_png", b"notes of a Mac")
    content = {"annotations__panoptic_val2017.zip": inner.getvalue(), "annotations__panoptic_val2017.json": b"{}"}
    (tmp_path / "x.zip").write_bytes(zip_of(**content))
    unpack(tmp_path / "x.zip", tmp_path / "to", silent)
    found = {path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert found == {"annotations/panoptic_val2017.json", "annotations/panoptic_val2017/a_png"}


def test_a_zip_in_a_zip_is_watched_too(tmp_path):
    (tmp_path / "x.zip").write_bytes(zip_of(**{"a__inner.zip": zip_of(**{"..__..__out": b"x"})}))
    with pytest.raises(ValueError, match="no plain file inside it"):
        unpack(tmp_path / "x.zip", tmp_path / "to", silent)
    assert not (tmp_path / "out").exists()


def test_a_tar_is_unpacked_over_what_is_there(tmp_path):
    (tmp_path / "to/VOCdevkit").mkdir(parents=True)
    (tmp_path / "to/VOCdevkit/other").write_text("kept")
    unpack(tar_of(tmp_path / "x.tar", plain("VOCdevkit/a")), tmp_path / "to", silent)
    assert {path.name for path in (tmp_path / "to/VOCdevkit").iterdir()} == {"a", "other"}


def test_neither_zip_nor_tar(tmp_path):
    (tmp_path / "x").write_text("<html>")
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        unpack(tmp_path / "x", tmp_path / "to", silent)


def test_the_table_is_whole():
    for archives in DATA_SETS.values():
        for archive in archives:
            algorithm, _, digest = archive.digest.partition(":")
            assert len(digest) == {"sha256": 64, "md5": 32}[algorithm] and int(digest, 16) > 0
            assert archive.size > 1e8 and archive.name.endswith((".zip", ".tar"))
