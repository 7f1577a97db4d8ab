"""A trained model as a function: images in, `Prediction`s out.

>>> predictor = Predictor("configs/mask_rcnn_rx50_vit.py", "work_dirs/run/epoch_12.pth")
>>> predictor("street.jpg").draw("out.png")
>>> predictor = Predictor("model.safetensors")  # of `hybrid-dense weights export`: the config is in its card
>>> predictor = Predictor("camvid")  # shipped with the package, exported alike
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hybrid_dense.channels import fill_channels
from hybrid_dense.config_file import read_config
from hybrid_dense.data.image_folders import IMAGE_SUFFIXES
from hybrid_dense.engine.checkpoint import Checkpoint, read_checkpoint
from hybrid_dense.engine.equip import type_name
from hybrid_dense.engine.model_weights import count_classes, load_weights
from hybrid_dense.engine.precision import HALVES, PRECISIONS, autocast_modules, computes
from hybrid_dense.layers.fold import fold_batch_norm
from hybrid_dense.model_card import find_test_dataset, read_card
from hybrid_dense.model_zoo import locate
from hybrid_dense.prediction import Prediction


class SkippedImageWarning(UserWarning):
    """An image of a list or folder that could not be read and was left out."""


class UnreadableImageError(ValueError):
    """The file is no image, or a damaged one."""


class Image(NamedTuple):
    """An image as the hosts hold it: BGR (h, w, 3) or gray (h, w), and its file if it has one."""

    pixels: np.ndarray
    path: str | None


class Predictor:
    """An mmdet detector or an mmseg segmentor, ready to run; which of the two, its outputs say.

    The data set of the config need not exist: its test pipeline is used, nothing else of it.

    Args:
        config: path of a config file, an mmengine `Config` or a dict; or of an exported `.safetensors`, whose model
            card takes the config's place; or the name of a shipped one (`hybrid_dense.model_zoo`). A `.py` config is
            run; `.yaml`, `.json` and model cards are data.
        weights: checkpoint file, opened without running code from it. None initialises the model as the config says,
            which may fetch pretrained weights; with a file nothing is fetched. An exported model brings its own.
        device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU if there is one.
        score_threshold: leave out detections that score less.
        amp: "bf16" or "fp16" runs backbone, neck and heads in 16 bits, if the device computes them itself; None or
            "fp32" in float32.
        batch_size: images that go through the model at once. Only consecutive images of one size share a batch,
            so that results do not depend on their neighbours.
        trust: open the weights without restriction, so that they can run code.
        fold: fold BatchNorm into the convolutions in front of it: faster, and equal but for rounding. ``model`` can
            then be neither trained nor saved; False keeps it as it was trained.

    Attributes:
        config: what the model was built from.
        class_names: those of the config's `test_dataloader.dataset.metainfo`, of the checkpoint or of the data set's
            class: the first that are as many as the model's classes.

    Raises:
        FileNotFoundError, ValueError: one line on what is wrong with the config, the weights or the device.
    """

    def __init__(
        self,
        config,
        weights: str | Path | Checkpoint | None = None,
        device: str = "auto",
        score_threshold: float = 0.0,
        amp: str | None = None,
        batch_size: int = 1,
        trust: bool = False,
        fold: bool = True,
    ):
        precision = PRECISIONS.get(amp or "fp32", amp)
        if precision not in PRECISIONS.values():
            raise ValueError(f"amp {amp!r} is unknown; choose one of {', '.join(PRECISIONS)} or None")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is not a positive number of images")
        device = _choose_device(device)
        config = locate(config) if isinstance(config, (str, Path)) else config
        if is_exported(config):
            exported = read_checkpoint(config)
            config = read_card(exported.meta.get("card"), config).config
            weights = exported if weights is None else weights
        config = _read_config(config)
        with _scope(config):
            fill_channels(config)
        checkpoint = weights if isinstance(weights, (Checkpoint, type(None))) else read_checkpoint(weights, trust=trust)

        self.config = config
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        reader, self._prepare = _build_pipeline(config)
        self._read_file, self._reads_gray = reader.transform, reader.color_type == "grayscale"
        self.model = _build_model(config)
        if checkpoint is None:
            initialise(self.model)
        else:
            load_weights(self.model, checkpoint)
        trained_on = () if checkpoint is None else checkpoint.class_names
        self.class_names = _find_class_names(config, trained_on, count_classes(self.model))
        self.model.to(device).eval()
        if fold:
            fold_batch_norm(self.model)
        if precision in HALVES:
            if computes(device, HALVES[precision]):
                autocast_modules(self.model, HALVES[precision])
            else:
                warnings.warn(f"no native {precision} on this {device.type}: it stays in float32", stacklevel=2)

    def __call__(self, image) -> Prediction | list[Prediction]:
        """Predict one image, or a list or folder of them.

        Args:
            image: a file, a folder (its images in sorted order, not those of its subfolders), a PIL image, a uint8
                array in RGB order (h, w, 3), gray (h, w) or with alpha (h, w, 4), which is dropped, or a list of these.

        Returns:
            A `Prediction` for one image; a list of them for a list or folder, where an unreadable file is left out with
            a `SkippedImageWarning` (each prediction's `path` names its file).

        Raises:
            FileNotFoundError, ValueError: the one image is missing or unreadable, or an array has the wrong type.
        """
        if _is_one_image(image):
            return self._predict([self._read(image)])[0]
        return list(self.stream(image))

    def stream(self, images) -> Iterator[Prediction]:
        """Predict a list, folder or iterable one after the other, holding only a batch in memory."""
        batch = []
        for item in list_images(images):
            try:
                image = self._read(item)
            except (FileNotFoundError, UnreadableImageError) as error:
                warnings.warn(f"skipped: {error}", SkippedImageWarning, stacklevel=2)
                continue
            if batch and image.pixels.shape != batch[0].pixels.shape:
                yield from self._predict(batch)
                batch = []
            batch.append(image)
            if len(batch) == self.batch_size:
                yield from self._predict(batch)
                batch = []
        if batch:
            yield from self._predict(batch)

    def _read(self, image) -> Image:
        if not isinstance(image, (str, Path)):
            pixels = _to_bgr(_to_array(image))
            return Image(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if self._reads_gray else pixels, None)
        if not Path(image).is_file():
            raise FileNotFoundError(f"no such image: {image}")
        try:
            pixels = self._read_file({"img_path": str(image)})["img"]
        except Exception as error:  # each decoder has its own ways to fail, and only the system's errors say more
            reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            raise UnreadableImageError(f"{image} is not an image that can be read{reason}") from None
        if pixels.dtype != np.uint8:
            raise UnreadableImageError(f"{image} has {pixels.dtype} pixels; only 8 bits a channel can be predicted")
        return Image(pixels, str(image))

    def _predict(self, images: list[Image]) -> list[Prediction]:
        """One pass through the model, for images of one size."""
        from mmengine.dataset import pseudo_collate

        try:
            # img_id, because some configs ask for it in their meta keys.
            samples = [self._prepare({"img": image.pixels, "img_id": 0}) for image in images]
            with torch.inference_mode():
                outputs = self.model.test_step(pseudo_collate(samples))
        except ValueError as error:
            named = ", ".join(image.path for image in images if image.path)
            raise ValueError(f"{named}: {error}" if named else str(error)) from error
        with torch.inference_mode():
            return [self._to_prediction(image, output) for image, output in zip(images, outputs, strict=True)]

    def _to_prediction(self, image: Image, output) -> Prediction:
        """An mmdet or mmseg data sample as a `Prediction`."""
        # The exchange of channels is its own inverse.
        found = {"image": _to_bgr(image.pixels), "class_names": self.class_names, "path": image.path}
        if "pred_instances" in output:
            instances = output.pred_instances
            instances = instances[instances.scores >= self.score_threshold]
            # Detectors with box types of their own wrap the tensor.
            boxes = getattr(instances.bboxes, "tensor", instances.bboxes)
            found.update(boxes=_to_numpy(boxes), scores=_to_numpy(instances.scores), labels=_to_numpy(instances.labels))
            if "masks" in instances:
                found["masks"] = _to_numpy(instances.masks).astype(bool)
        elif "pred_sem_seg" in output:
            found["label_map"] = _to_numpy(output.pred_sem_seg.data)[0].astype(np.int64)
        else:
            kinds = ", ".join(output.keys()) or "nothing"
            raise ValueError(f"the model predicts neither instances nor a semantic map, but {kinds}")
        return Prediction(**found)


def is_exported(model) -> bool:
    """Whether this is the path of a model that `hybrid-dense weights export` wrote, by its ending."""
    return isinstance(model, (str, Path)) and Path(model).suffix == ".safetensors"


def list_images(images) -> Iterable:
    """The single images of a list, folder or iterable; folders stand for the image files in them, in sorted order.

    Raises:
        ValueError: a folder without images.
    """
    if _is_one_image(images):
        return [images]
    if isinstance(images, (str, Path)):
        files = sorted(file for file in Path(images).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f"no images in folder {images} (looked for {' '.join(IMAGE_SUFFIXES)})")
        return files
    return (image for item in images for image in list_images(item))


def _is_one_image(image) -> bool:
    if isinstance(image, (str, Path)):
        return not Path(image).is_dir()
    return isinstance(image, (np.ndarray, Tensor)) or not isinstance(image, Iterable)


def _to_array(image) -> np.ndarray:
    """A PIL image or an array as an array, with the pixels upright."""
    import PIL.Image
    import PIL.ImageOps

    if isinstance(image, np.ndarray):
        return image
    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"an image is a path, a uint8 RGB array or a PIL image, not {type(image).__name__}")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"PIL image of mode {image.mode} has more than 8 bits a channel; convert it to RGB first")
    try:  # PIL reads the pixels only now; and the hosts' file loader turns photographs upright as well
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise UnreadableImageError(f"a PIL image cannot be read: {error}") from None


def _to_bgr(image: np.ndarray) -> np.ndarray:
    """RGB (h, w, 3), gray (h, w) or RGBA (h, w, 4) to BGR (h, w, 3), the order in which the hosts' pipelines begin."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"an image array is uint8 RGB of shape (h, w, 3), got {image.dtype} {image.shape}")
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1])


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is unknown; write cpu, cuda, cuda:1 or auto") from None
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not there: this machine has {torch.cuda.device_count()} usable GPUs; "
            f"write auto or cpu"
        )
    return chosen


def _read_config(config):
    """A path, `Config` or dict as a `Config` of its own, with the modules it asks for imported."""
    from mmengine.config import Config
    from mmengine.utils import import_modules_from_strings

    if isinstance(config, (str, Path)):
        return read_config(config)
    config = Config(deepcopy(config)) if isinstance(config, dict) else deepcopy(config)
    if "custom_imports" in config:
        import_modules_from_strings(**config.custom_imports)
    return config


def _scope(config):
    """The host's registries, for as long as something is built and without a trace afterwards."""
    from mmengine.registry import DefaultScope

    return DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet")


def _build_model(config) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS

    with _scope(config), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mmseg\.models\.losses")  # of how they would train
        # Synchronised batch norm needs a process group even where it has nothing to synchronise.
        return revert_sync_batchnorm(MODELS.build(config.model))


def initialise(model: nn.Module) -> None:
    """The host's own initialisation, without its log line for each parameter."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def _build_pipeline(config):
    """The config's test pipeline in two: one that reads a file, one that prepares the pixels for the model.

    Returns:
        The transform from `img_path` to `img`, and a callable from `img` to `inputs` and `data_samples`.
    """
    from mmcv.transforms import Compose, LoadAnnotations, LoadImageFromFile
    from mmengine.registry import TRANSFORMS

    steps = find_test_dataset(config).get("pipeline")
    reader, prepare = None, []
    with _scope(config):
        for step in steps:
            built = TRANSFORMS.build(step)
            if isinstance(built, LoadImageFromFile) or type_name(step) == "LoadEncodedImage":
                # What decodes later, at the size that is asked for, is given the whole image.
                reader = built if isinstance(built, LoadImageFromFile) else LoadImageFromFile()
                prepare.append(TRANSFORMS.build({"type": "LoadImageFromNDArray", "to_float32": reader.to_float32}))
            elif not isinstance(built, LoadAnnotations):
                prepare.append(built)
    if reader is None:
        raise ValueError("the config's test pipeline has no LoadImageFromFile, so nothing says how to read an image")
    # Pixels go to float in the second part; and images come from this machine, wherever the data set is.
    reader.to_float32, reader.backend_args, reader.file_client_args = False, None, None
    return reader, Compose(prepare)


def _find_class_names(config, trained_on: tuple[str, ...], count: int | None) -> tuple[str, ...]:
    """The first list of names that has as many as the model has classes; numbers where none has."""
    from mmengine.fileio import list_from_file
    from mmengine.registry import DATASETS

    dataset = find_test_dataset(config)
    stated = (dataset.get("metainfo") or {}).get("classes", ())
    if isinstance(stated, str):  # a file with one name a line, as mmengine's data sets take it
        stated = list_from_file(stated)
    dataset_class = dataset.get("type")
    if isinstance(dataset_class, str):
        with _scope(config), DATASETS.switch_scope_and_registry(None) as registry, suppress(RuntimeError):
            dataset_class = registry.get(dataset_class)
    stock = getattr(dataset_class, "METAINFO", {}).get("classes", ())
    for names in (stated, trained_on, stock):
        if names and count in (None, len(names)):
            return tuple(names)
    return tuple(f"class {index}" for index in range(count or 0))
