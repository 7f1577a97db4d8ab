"""A config's whole model as work for the benchmark: synthetic images and annotations, real steps of its optimizer."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from hybrid_dense.analysis.complexity import count_flops
from hybrid_dense.analysis.workload import Workload, on_meta
from hybrid_dense.engine.precision import autocast_modules, exchange_forward
from hybrid_dense.inference import initialise

OBJECTS = 7
"""On an image of COCO there are 7.3 in the mean."""


class ModelWorkload(Workload):
    """``train_step`` with the config's optimizer and ``test_step`` of an mmdet or mmseg model, untrained.

    Images come as the data preprocessor takes them, in bytes; it normalises and pads them within the step. Where it
    pads to a fixed size, that becomes the size of the images.
    """

    small: ClassVar[int] = 128

    def __init__(self, cfg: Config, batch: int, device: torch.device, dtype: torch.dtype, compiled: bool = False):
        self.scope, self.batch = cfg.default_scope, batch
        config = deepcopy(cfg.model)
        config.backbone.pop("init_cfg", None)  # weights are random, and nothing is fetched
        with DefaultScope.overwrite_default_scope(self.scope):
            self.module = revert_sync_batchnorm(MODELS.build(config))
            initialise(self.module)  # fresh scores are then as rare as the heads want them
            self.twin = on_meta(self.module.backbone)
            self.module.to(device)
            if dtype != torch.float32:
                autocast_modules(self.module, dtype)
            if compiled:
                for part in (self.module.backbone, getattr(self.module, "neck", None)):
                    if part is not None:
                        exchange_forward(part, partial(torch.compile, dynamic=False))
            self.optimizer = build_optim_wrapper(self.module, cfg.optim_wrapper)
        self.data: dict = {}

    def load(self, size: int) -> None:
        preprocessor = self.module.data_preprocessor
        for part in (preprocessor, *(getattr(preprocessor, "batch_augments", None) or ())):
            if getattr(part, "size", None) is not None:
                part.size = (size, size)
        make = detection_batch if self.scope == "mmdet" else segmentation_batch
        self.data = make(self.batch, size, preprocessor)

    def run(self, mode: str) -> None:
        if mode == "train":
            self.module.train_step(self.data, self.optimizer)
        else:
            with torch.inference_mode():
                self.module.test_step(self.data)

    def count_forward(self) -> int:
        """The backbone's on the meta device, where attention needs no memory, and those of all else as it runs."""
        backbone, calls = self.module.backbone, []
        handle = backbone.register_forward_hook(lambda _, inputs, maps: calls.append((inputs[0].to("meta"), maps)))
        self.module.eval()
        self.run("infer")
        handle.remove()
        with torch.no_grad():
            try:
                flops = sum(count_flops(lambda images=images: self.twin(images)) for images, _ in calls)
            except (RuntimeError, NotImplementedError):  # it cannot go there
                return count_flops(lambda: self.run("infer"))
        answers, forward = iter([maps for _, maps in calls]), vars(backbone).get("forward")
        backbone.forward = lambda *_: next(answers)
        try:
            return flops + count_flops(lambda: self.run("infer"))
        finally:
            del backbone.forward
            if forward is not None:
                backbone.forward = forward

    def state_bytes(self, mode: str) -> int:
        if mode == "infer":
            return super().state_bytes(mode)
        states = self.optimizer.optimizer.state.values()
        tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        return super().state_bytes(mode) + sum(tensor.nbytes for tensor in tensors)


def detection_batch(batch: int, size: int, preprocessor) -> dict:
    """Random images, each with boxes, masks and a label map where the model's data preprocessor pads such."""
    from mmdet.testing import demo_mm_inputs

    data = demo_mm_inputs(
        batch,
        (3, size, size),
        num_items=[OBJECTS] * batch,
        num_classes=2,
        with_mask=getattr(preprocessor, "pad_mask", False),
        with_semantic=getattr(preprocessor, "pad_seg", False),
    )
    for sample in data["data_samples"]:
        sample.gt_instances.labels.zero_()  # every model has a class 0
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return data


def segmentation_batch(batch: int, size: int, _) -> dict:
    """Random images with label maps of two classes."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = np.random.default_rng(0)
    images = [torch.from_numpy(generator.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(batch)]
    labels = [torch.from_numpy(generator.integers(0, 2, (1, size, size))) for _ in range(batch)]
    meta = dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0), flip=False)
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)) for label in labels]
    return dict(inputs=images, data_samples=samples)
