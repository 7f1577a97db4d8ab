"""What a batch of mmdet or mmseg holds, in words and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from torch import Tensor

_NAMES = {"path": ("img_path", "filename"), "id": ("img_id", "sample_idx")}


def describe_images(batch) -> list[dict]:
    """Path, id and input tensor of every image: ``path, id, shape, finite``; what a batch does not say is left out."""
    named = _named_images(batch)
    inputs = _inputs(batch)
    named += [{} for _ in range(len(inputs) - len(named))]
    for image, tensor in zip(named, inputs, strict=False):
        image.update(shape=list(tensor.shape), finite=bool(tensor.isfinite().all()))
    return named


def image_paths(batch) -> list[str]:
    """Paths of the images; the id where a sample has no path, [] where it has neither."""
    return paths_of(_named_images(batch))


def paths_of(described: list[dict]) -> list[str]:
    """The paths, or ids, of what `describe_images` gave."""
    return [str(image.get("path", image.get("id"))) for image in described if {"path", "id"} & set(image)]


def _named_images(batch) -> list[dict]:
    return [_name(getattr(sample, "metainfo", sample)) for sample in _samples(batch)]


def _name(about) -> dict:
    """Path and id by the names that mmdet, mmseg and mmengine give them."""
    if not isinstance(about, dict):
        return {}
    found = {}
    for name, keys in _NAMES.items():
        value = next((about[key] for key in keys if key in about), None)
        if value is not None:
            found[name] = value if isinstance(value, (int, str)) else str(value)
    return found


def write_pictures(batch, folder: Path, prefix: str) -> list[Path]:
    """Write the images that a network was about to get as ``<prefix><number>.png``, boxes not drawn; returns the files.

    They come as the pipeline gave them: cropped, flipped, in 0 to 255, because both hosts normalise inside the model.
    Where a pipeline has normalised them itself, each is stretched from its darkest to its brightest value; what is not
    finite is black. Tensors that are no pictures are left out.
    """
    written = []
    for index, image in enumerate(_inputs(batch)):
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            continue
        image = image.detach().float().cpu()
        finite = image[image.isfinite()]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        if low < 0 or high > 255 or high <= 1:
            image = (image - low) / max(float(high - low), 1e-9) * 255
        pixels = torch.nan_to_num(image, 0, 0, 0).clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        path = folder / f"{prefix}{index}.png"
        if cv2.imwrite(str(path), pixels):
            written.append(path)
    return written


def _samples(batch) -> list:
    """The samples of one batch, or of several (semi-supervised training has a dict of them)."""
    if isinstance(batch, dict):
        samples = batch.get("data_samples", [])
        return list(_flat(samples))
    if isinstance(batch, (list, tuple)):
        return [sample for part in batch for sample in _samples(part)]
    return []


def _inputs(batch) -> list[Tensor]:
    if isinstance(batch, dict):
        return [image for image in _flat(batch.get("inputs", [])) if isinstance(image, Tensor)]
    if isinstance(batch, (list, tuple)):
        return [image for part in batch for image in _inputs(part)]
    return []


def _flat(values) -> Iterator:
    if isinstance(values, dict):
        for value in values.values():
            yield from _flat(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _flat(value)
    elif isinstance(values, Tensor) and values.dim() == 4:
        yield from values
    else:
        yield values
