"""Every check of images, masks and copies finds its mistake, and nothing else is said about a sound file."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken_folder import write_png16
from PIL import Image

from hybrid_dense.data.checks.copies import find_copies
from hybrid_dense.data.checks.examine import examine, spread
from hybrid_dense.data.checks.records import Entry, Split
from hybrid_dense.data.image_file import cut_off, look_at

SIZE = (48, 32)


def scene(seed: int = 0) -> np.ndarray:
    """Soft random colours, uint8 (32, 48, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)


def write(path: Path, pixels: np.ndarray, suffix: str | None = None) -> Path:
    path.write_bytes(cv2.imencode(suffix or path.suffix, pixels)[1])
    return path


def kinds(*entries: Entry, full: bool = True, **split) -> list[str]:
    split = Split("train", Path("source"), entries, has_boxes=False, **split)
    return [finding.kind for finding in examine([split], full=full).findings]


def entry(path: Path, **more) -> Entry:
    return Entry(path.stem, path, **more)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("full", [True, False])
def test_a_sound_image_is_passed_over(tmp_path, suffix, full):
    assert kinds(entry(write(tmp_path / f"ä {suffix}", scene()), size=SIZE), full=full) == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("kept", [0.98, 0.5, 0.1])
@pytest.mark.parametrize("full", [True, False])
def test_a_cut_off_image_is_found_without_decoding_too(tmp_path, suffix, kept, full):
    path = write(tmp_path / f"a{suffix}", scene())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert kinds(entry(path), full=full) == ["truncated-image"]


@pytest.mark.parametrize("behind", [b"\0" * 100, b"camera notes" * 10])
def test_what_a_camera_writes_behind_a_jpeg_cuts_nothing_off(tmp_path, behind):
    path = write(tmp_path / "a.jpg", scene())
    path.write_bytes(path.read_bytes() + behind)
    assert cut_off(path) is None


def test_missing_empty_foreign_and_misnamed_files(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    write(tmp_path / "misnamed.jpg", scene(), ".png")
    found = [kinds(entry(tmp_path / f"{name}.jpg")) for name in ("missing", "empty", "text", "misnamed")]
    assert found == [["missing-file"], ["empty-file"], ["unreadable-file"], ["wrong-extension"]]


def test_links_in_a_circle_folders_pipes_and_forbidden_files_are_named(tmp_path, monkeypatch):
    import os

    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("loop.jpg", "folder.jpg", "pipe.jpg"):
        assert kinds(entry(tmp_path / name)) == ["unreadable-file"], name
    path = write(tmp_path / "a.jpg", scene())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert look_at(path).unreadable == "Permission denied"


def test_a_decompression_bomb_is_not_decoded(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert kinds(entry(tmp_path / "bomb.png")) == ["giant-image"]


def test_exif_turns_an_image_away_from_its_boxes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    upright = cv2.imread(str(tmp_path / "a.jpg")).shape[1::-1]
    assert look_at(tmp_path / "a.jpg").size == upright == SIZE[::-1]  # as the hosts' loader turns it
    assert kinds(entry(tmp_path / "a.jpg", size=SIZE)) == ["exif-rotation"]
    assert kinds(entry(tmp_path / "a.jpg", size=SIZE[::-1])) == []


def test_stated_and_real_size_are_compared(tmp_path):
    assert kinds(entry(write(tmp_path / "a.jpg", scene()), size=(32, 32))) == ["image-size"]


def test_sixteen_bits_are_named_and_palettes_are_not(tmp_path):
    assert kinds(entry(write_png16(tmp_path / "deep.png"))) == ["deep-image"]
    Image.fromarray(scene()).convert("P").save(tmp_path / "palette.png")
    assert kinds(entry(tmp_path / "palette.png")) == []


def mask_kinds(folder: Path, mask: Image.Image, labels=None) -> list[str]:
    mask.save(folder / "mask.png")
    image = entry(write(folder / "image.jpg", scene()), mask=folder / "mask.png")
    return kinds(image, labels=labels, classes=("road", "sky"))


def test_masks_in_size_channels_and_values(tmp_path):
    labels = {0: "road", 1: "sky", 255: None}
    values = np.zeros(SIZE[::-1], np.uint8)
    values[0, :3] = 1, 255, 1
    palette = Image.fromarray(values).convert("P")
    assert mask_kinds(tmp_path, Image.fromarray(values), labels) == []
    assert mask_kinds(tmp_path, palette, labels) == []
    assert mask_kinds(tmp_path, Image.fromarray(values[:, :-1]), labels) == ["mask-size"]
    assert mask_kinds(tmp_path, Image.fromarray(values).convert("RGB"), labels) == ["mask-channels"]
    assert mask_kinds(tmp_path, Image.fromarray(values + 1), labels) == ["label-value"]
    assert mask_kinds(tmp_path, Image.fromarray(values.astype(np.uint16) + 256), labels) == ["label-value"]
    assert mask_kinds(tmp_path, Image.fromarray(np.full_like(values, 255)), labels) == ["no-annotation"]
    assert mask_kinds(tmp_path, Image.fromarray(values + 1), None) == []  # without a config nobody knows


def test_label_values_are_named_with_their_pixels_and_the_allowed_ones(tmp_path):
    values = np.zeros(SIZE[::-1], np.uint8)
    values[:2] = 7
    Image.fromarray(values).save(tmp_path / "mask.png")
    image = entry(write(tmp_path / "image.jpg", scene()), mask=tmp_path / "mask.png")
    split = Split("train", Path("s"), (image,), has_boxes=False, labels={0: "a", 1: "b", 255: None})
    (finding,) = examine([split]).findings
    assert finding.message == "holds 7 (96 px); the config takes 0–1, 255"


def two_splits(first: list[Path], second: list[Path]) -> list[tuple[str, str]]:
    splits = [
        Split(name, Path(name), tuple(map(entry, files)), has_boxes=False)
        for name, files in (("train", first), ("val", second))
    ]
    return [(finding.kind, Path(finding.file).name) for finding in examine(splits).findings]


def test_copies_within_a_split_and_leaks_between_two(tmp_path):
    a, b, c = (write(tmp_path / f"{name}.png", scene(seed)) for seed, name in enumerate("abc"))
    same = write(tmp_path / "same.png", scene(0))
    again = write(tmp_path / "again.jpg", scene(1))  # the same picture, compressed anew
    assert two_splits([a, b], [c]) == []
    assert two_splits([a, same, b], [c]) == [("duplicate-image", "same.png")]
    assert two_splits([a, a], [c]) == [("duplicate-image", "a.png")]
    assert two_splits([a, b], [same]) == [("leak", "same.png")]
    assert two_splits([b, again], [a]) == [("near-duplicate", "again.jpg")]
    assert two_splits([a, b], [again]) == [("near-leak", "again.jpg")]


def test_files_of_one_length_are_no_copies_by_that_alone(tmp_path):
    files = [write(tmp_path / f"{i}.bmp", scene(i)) for i in range(3)]
    looks = [("train", path, look_at(path)) for path in files]
    assert len({look.bytes for _, _, look in looks}) == 1
    assert find_copies(looks, near=False) == []


def test_images_without_contrast_are_not_taken_for_each_other(tmp_path):
    files = [write(tmp_path / f"{i}.png", np.full((32, 48, 3), 40 * i, np.uint8)) for i in range(3)]
    assert two_splits(files, []) == [("no-images", "val")]


def test_a_limit_spreads_evenly():
    entries = [Entry(str(i), Path(str(i))) for i in range(10)]
    assert [found.id for found in spread(entries, 4)] == ["0", "2", "5", "7"]
    assert spread(entries, 99) == entries
