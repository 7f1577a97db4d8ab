"""What is said about the batch and the learning rate."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

from hybrid_dense.engine.hooks.batch import BatchSizeHook, describe_batch, describe_rate


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1, 2, 1), "1 process × 2 images = 2 images a step"),
        ((2, 4, 2), "2 processes × 4 images × 2 accumulated = 16 images a step"),
    ],
)
def test_the_batch_is_counted_over_processes_and_accumulation(numbers, text):
    assert describe_batch(*numbers) == text


@pytest.mark.parametrize(
    ("images", "accumulated", "scaling", "text"),
    [
        (8, 1, {}, "learning rate 0.0001"),
        (16, 1, dict(enable=True, base_batch_size=16), "learning rate 0.0001 × 16/16 = 0.0001"),
        (8, 2, dict(enable=True, base_batch_size=16),
         "learning rate 0.0001 × 8/16 = 5e-05 (counted without accumulation)"),
        (4, 1, dict(enable=False, base_batch_size=16),
         "learning rate 0.0001, not scaled; linear scaling from 16 images (--auto-scale-lr) would give 2.5e-05"),
        (16, 1, dict(base_batch_size=16),
         "learning rate 0.0001, not scaled (16 images is what the config is made for)"),
    ],
)  # fmt: skip
def test_the_learning_rate_is_what_mmengine_makes_of_it(images, accumulated, scaling, text):
    assert describe_rate(1e-4, images, accumulated, scaling) == text


def runner_of(batch_size: int, resume: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        train_dataloader=DataLoader(range(8), batch_size=batch_size),
        world_size=2,
        optim_wrapper=SimpleNamespace(_accumulative_counts=2),
        cfg=Config(dict(optim_wrapper=dict(optimizer=dict(lr=1e-4)))),
        logger=logging.getLogger("test_batch"),
        _resume=resume,
    )


def test_one_line_and_a_warning_where_the_batch_of_a_resumed_training_is_another(caplog):
    caplog.set_level(logging.INFO, "test_batch")
    checkpoint, hook = {}, BatchSizeHook()
    hook.before_train(runner_of(2))
    hook.before_save_checkpoint(runner_of(2), checkpoint)
    assert checkpoint == {"hybrid_dense": {"images_per_step": 8}}
    assert caplog.messages == ["2 processes × 2 images × 2 accumulated = 8 images a step; learning rate 0.0001"]
    for batch_size, warnings in ((2, 0), (4, 1)):
        caplog.clear()
        hook = BatchSizeHook()
        hook.after_load_checkpoint(runner_of(batch_size, resume=True), checkpoint)
        hook.before_train(runner_of(batch_size, resume=True))
        assert [record.levelno for record in caplog.records].count(logging.WARNING) == warnings
    assert "from a training of 8 images a step, now there are 16" in caplog.messages[-1]
