"""Say how many images a step of the optimizer sees, and what that makes of the learning rate."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """One line when training starts, such as::

        2 processes × 4 images × 2 accumulated = 16 images a step; learning rate 0.0001 × 8/16 = 5e-05 (counted without
        accumulation)

    mmengine's scaling (``auto_scale_lr``) does not know accumulation; `train --accumulate` divides the base.
    A training that is resumed with another number of images a step is a warning: its learning rate is the checkpoint's,
    which nothing scales.
    """

    def __init__(self):
        self.images_before: int | None = None

    def before_train(self, runner) -> None:
        loader, processes = runner.train_dataloader, runner.world_size
        # With a batch sampler the loader has no batch size of its own.
        images = getattr(loader.batch_sampler or loader, "batch_size", None)
        if not isinstance(images, int):  # several data sets, or batches of varying size
            return
        accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        self.images = processes * images * accumulated
        scaling = runner.cfg.get("auto_scale_lr") or {}
        rate = ((runner.cfg.get("optim_wrapper") or {}).get("optimizer") or {}).get("lr")
        runner.logger.info(
            f"{describe_batch(processes, images, accumulated)}"
            + (f"; {describe_rate(rate, processes * images, accumulated, scaling)}" if isinstance(rate, float) else "")
        )
        if self.images_before not in (None, self.images):
            runner.logger.warning(
                f"the checkpoint is from a training of {self.images_before} images a step, now there are "
                f"{self.images}: learning rates stay the checkpoint's"
            )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if hasattr(self, "images"):
            checkpoint.setdefault("hybrid_dense", {})["images_per_step"] = self.images

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Weights to start from are no training that goes on.
        if runner._resume:
            self.images_before = checkpoint.get("hybrid_dense", {}).get("images_per_step")


def describe_batch(processes: int, images: int, accumulated: int) -> str:
    """``2 processes × 4 images × 2 accumulated = 16 images a step``."""
    accumulation = f" × {accumulated} accumulated" if accumulated > 1 else ""
    plural, total = "" if processes == 1 else "es", processes * images * accumulated
    return f"{processes} process{plural} × {images} images{accumulation} = {total} images a step"


def describe_rate(rate: float, images: int, accumulated: int, scaling: dict) -> str:
    """The learning rate after what mmengine scales, and what linear scaling would make of it.

    Args:
        rate: as the config has it.
        images: of all processes together, without accumulation, which mmengine's scaling does not know.
        accumulated: batches a step.
        scaling: the config's ``auto_scale_lr``.
    """
    base = scaling.get("base_batch_size")
    if base is None:
        return f"learning rate {rate:g}"
    if not scaling.get("enable"):
        return f"learning rate {rate:g}, not scaled" + (
            f"; linear scaling from {base} images (--auto-scale-lr) would give {rate * images / base:g}"
            if images != base
            else f" ({base} images is what the config is made for)"
        )
    aside = " (counted without accumulation)" if accumulated > 1 else ""
    return f"learning rate {rate:g} × {images}/{base} = {rate * images / base:g}{aside}"
