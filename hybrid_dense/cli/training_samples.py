"""Pictures of training samples as the pipeline hands them to the model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from hybrid_dense.prediction import IGNORE_LABEL, Prediction
from hybrid_dense.report.data_page import Picture, to_jpeg
from hybrid_dense.report.gallery import save_prediction

SAMPLES = 12


def training_samples(cfg: Config) -> list[Picture]:
    """Samples of the training set, evenly spread; the line below each says its size, or why there is none."""
    if not cfg.get("train_dataloader"):
        return []
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        dataset.full_init()
    except Exception as error:  # the findings name what keeps the host from building it
        return [Picture(None, f"the training data set cannot be built: {type(error).__name__} {error}")]
    places = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).round().astype(int)) if len(dataset) else ()
    return [draw_sample(dataset, int(index), cfg) for index in places]


def draw_sample(dataset, index: int, cfg: Config) -> Picture:
    try:
        sample = dataset[index]
        found = to_prediction(sample, tuple(dataset.metainfo.get("classes") or ()), cfg)
        with TemporaryDirectory() as folder:
            picture = to_jpeg(Image.open(save_prediction(found, Path(folder) / "sample.png")).convert("RGB"))
    except Exception as error:  # a transform may raise anything, and the other samples are worth seeing
        return Picture(None, f"sample {index}: {type(error).__name__} {error}")
    height, width = found.image.shape[:2]
    return Picture(picture, f"{Path(found.path).name}: {width}×{height}")


def to_prediction(sample: dict, classes: tuple[str, ...], cfg: Config) -> Prediction:
    """What mmdet's and mmseg's Pack…Inputs make, as ground truth on the image that the model gets."""
    pixels = sample["inputs"].permute(1, 2, 0).float().clamp(0, 255).byte().numpy()
    if (cfg.model.get("data_preprocessor") or {}).get("bgr_to_rgb"):
        pixels = pixels[..., ::-1]
    packed = sample["data_samples"]
    found = {"image": np.ascontiguousarray(pixels), "class_names": classes, "path": packed.img_path}
    if "gt_instances" in packed:
        instances = packed.gt_instances
        boxes = getattr(instances.bboxes, "tensor", instances.bboxes)
        found.update(boxes=boxes.numpy(), labels=instances.labels.numpy())
        if "masks" in instances:
            found["masks"] = instances.masks.to_ndarray().astype(bool)
    else:
        labels = packed.gt_sem_seg.data[0].numpy().astype(np.int64)
        # A value beyond the classes is one that the losses ignore, or a finding of its own.
        found["label_map"] = np.where(labels < len(classes), labels, IGNORE_LABEL) if classes else labels
    return Prediction(**found)
