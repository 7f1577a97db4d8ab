"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32 pixels, ten classes."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

SIDE = 32
BINARY = "cifar-10-batches-bin"
BINARY_FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}


@DATASETS.register_module()
class CIFAR10(Dataset):
    """One split in memory; item i is ``dict(inputs=(3, 32, 32) uint8 in RGB, labels=0…9)``.

    ``data_root`` holds the split in either form: ``cifar-10-batches-bin/``, the publisher's binary version unpacked, or
    ``<split>.tar.xz`` with an image file ``<split>/<class>/<name>`` each. Batches need
    ``collate_fn=dict(type="default_collate")``.

    Args:
        data_root: the folder.
        split: ``"train"`` or ``"test"``.
        indices: keep so many images, spread evenly over the split; None keeps all.

    Raises:
        FileNotFoundError: the folder has neither form.
        ValueError: an unknown split; an image of another size, a label or class that CIFAR-10 has not, a broken file.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        )
    )

    def __init__(self, data_root: str | Path, split: str, indices: int | None = None):
        if split not in BINARY_FILES:
            raise ValueError(f"split {split!r} is not one of {', '.join(BINARY_FILES)}")
        root = Path(data_root)
        binary, archive = root / BINARY, root / f"{split}.tar.xz"
        if binary.is_dir():
            images, labels = read_binary([binary / name for name in BINARY_FILES[split]])
        elif archive.is_file():
            images, labels = read_archive(archive, self.METAINFO["classes"])
        else:
            raise FileNotFoundError(
                f"CIFAR-10 is not in {root}: it needs {binary.name}/ (cifar-10-binary.tar.gz, unpacked) or "
                f"{archive.name}; --cfg-options data_root=DIR names the folder"
            )
        chosen = slice(None) if indices is None else np.linspace(0, len(images) - 1, indices).astype(int)
        self.images, self.labels = torch.from_numpy(images[chosen]), labels[chosen].tolist()

    @property
    def metainfo(self) -> dict:
        return dict(self.METAINFO)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=self.images[index], labels=self.labels[index])


def read_binary(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a label and 3 × 32 × 32 bytes to images (n, 3, 32, 32) and labels (n,)."""
    rows = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"CIFAR-10 lacks {file}; unpack cifar-10-binary.tar.gz again")
        content = np.fromfile(file, np.uint8)
        if not content.size or content.size % (1 + 3 * SIDE**2):
            raise ValueError(f"{file} is broken: {content.size} bytes are no whole images; unpack it again")
        rows.append(content.reshape(-1, 1 + 3 * SIDE**2))
    table = np.concatenate(rows)
    labels = table[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise ValueError(f"{files[0].parent} holds label {labels.max()}; CIFAR-10 has 0 to 9")
    return table[:, 1:].reshape(-1, 3, SIDE, SIDE), labels


def read_archive(archive: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image files in folders of their classes to images (n, 3, 32, 32) and labels (n,), in the order of the archive."""
    images, labels = [], []
    try:
        with tarfile.open(archive, "r|*") as files:
            for entry in files:
                if entry.isfile():
                    images.append(decode(files.extractfile(entry).read(), f"{archive}: {entry.name}"))
                    labels.append(label_of(entry.name, classes, archive))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} is broken ({error}); copy it again") from error
    if not images:
        raise ValueError(f"{archive} holds no images; it needs <split>/<class>/<name>.jpg")
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)), np.array(labels)


def decode(content: bytes, name: str) -> np.ndarray:
    """A JPEG or PNG file to (32, 32, 3) uint8 in RGB."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"{name} is {'no image' if image is None else image.shape[:2]}; CIFAR-10 has 32×32 pixels")
    return image[..., ::-1]


def label_of(name: str, classes: tuple[str, ...], archive: Path) -> int:
    folder = Path(name).parent.name
    if folder not in classes:
        raise ValueError(f"{archive}: {name} is of class {folder!r}; CIFAR-10 has {', '.join(classes)}")
    return classes.index(folder)
