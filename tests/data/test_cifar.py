"""CIFAR-10 in both forms, and what is said about files that are not CIFAR-10."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS

from hybrid_dense.data.cifar import CIFAR10

CLASSES = CIFAR10.METAINFO["classes"]


def write_binary(root: Path, images: np.ndarray, labels: list[int]) -> Path:
    """The publisher's layout: rows of a label and the red, green and blue plane; five files and the test's."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rows = [bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)]
    for number in range(5):
        (folder / f"data_batch_{number + 1}.bin").write_bytes(b"".join(rows[number::5]))
    (folder / "test_batch.bin").write_bytes(b"".join(rows))
    return root


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path.parent


def png(image: np.ndarray) -> bytes:
    """(h, w, 3) in RGB to a PNG file, which loses nothing."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)


def test_the_binary_form_is_read_plane_by_plane(tmp_path, images):
    labels = [3, 1, 4, 1, 5, 9, 2, 6, 5, 0]
    write_binary(tmp_path, images, labels)
    test = CIFAR10(tmp_path, "test")
    assert len(test) == 10
    for index in range(10):
        item = test[index]
        assert item["inputs"].dtype == torch.uint8 and item["labels"] == labels[index]
        np.testing.assert_array_equal(item["inputs"].numpy(), images[index])
    train = CIFAR10(tmp_path, "train")
    assert [train[index]["labels"] for index in range(10)] == [labels[at] for at in (0, 5, 1, 6, 2, 7, 3, 8, 4, 9)]


def test_an_archive_is_read_in_rgb_and_by_the_names_of_its_folders(tmp_path, images):
    files = {f"train/{CLASSES[9 - at]}/{at}.png": png(images[at].transpose(1, 2, 0)) for at in range(10)}
    root = write_archive(tmp_path / "train.tar.xz", files)
    train = DATASETS.build(dict(type="CIFAR10", data_root=root, split="train"))
    assert [train[index]["labels"] for index in range(10)] == list(range(9, -1, -1))
    for index in range(10):
        np.testing.assert_array_equal(train[index]["inputs"].numpy(), images[index])
    assert train.metainfo["classes"] == CLASSES and CLASSES[3] == "cat"


def test_a_part_is_spread_over_the_split(tmp_path, images):
    write_binary(tmp_path, images, list(range(10)))
    assert CIFAR10(tmp_path, "test", indices=4).labels == [0, 3, 6, 9]


def test_a_folder_without_it_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .*data_root=DIR"):
        CIFAR10(tmp_path, "train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'val' is not one of train, test"):
        CIFAR10(tmp_path, "val")


def test_a_binary_file_that_is_cut_off_is_named(tmp_path, images):
    write_binary(tmp_path, images, list(range(10)))
    file = tmp_path / "cifar-10-batches-bin/test_batch.bin"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"test_batch\.bin is broken"):
        CIFAR10(tmp_path, "test")


def test_a_missing_binary_file_is_named(tmp_path, images):
    write_binary(tmp_path, images, list(range(10)))
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        CIFAR10(tmp_path, "train")


def test_a_label_that_there_is_not_is_refused(tmp_path, images):
    write_binary(tmp_path, images, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10])
    with pytest.raises(ValueError, match="label 10"):
        CIFAR10(tmp_path, "test")


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("test/cat/0.png", png(np.zeros((28, 28, 3), np.uint8)), r"test/cat/0\.png is \(28, 28\)"),
        ("test/cat/0.png", b"no image", r"test/cat/0\.png is no image"),
        ("test/horse2/0.png", png(np.zeros((32, 32, 3), np.uint8)), "class 'horse2'"),
    ],
)
def test_a_foreign_file_in_the_archive_is_named(tmp_path, name, content, said):
    root = write_archive(tmp_path / "test.tar.xz", {name: content})
    with pytest.raises(ValueError, match=said):
        CIFAR10(root, "test")


def test_an_archive_that_is_cut_off_or_empty_is_named(tmp_path, images):
    file = tmp_path / "test.tar.xz"
    write_archive(file, {f"test/cat/{at}.png": png(images[at].transpose(1, 2, 0)) for at in range(10)})
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"test\.tar\.xz is broken"):
        CIFAR10(tmp_path, "test")
    write_archive(file, {})
    with pytest.raises(ValueError, match="holds no images"):
        CIFAR10(tmp_path, "test")


def test_the_real_test_split(data_root):
    test = CIFAR10(data_root / "cifar10", "test")
    assert test.images.shape == (10000, 3, 32, 32)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    # The sea and the sky make ships and airplanes bluer than frogs and deer.
    blueness = (test.images[:, 2].float() - test.images[:, 0].float()).mean(dim=(1, 2))
    means = [blueness[np.array(test.labels) == label].mean() for label in range(10)]
    assert min(means[0], means[8]) > max(means[4], means[6])
