"""A minuscule training with mmengine's Runner, that tests of checkpoints start, stop and resume."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from hybrid_dense.engine.files import LOCK
from hybrid_dense.engine.latest import find_latest

IMAGES, BATCH = 8, 2
STEPS = IMAGES // BATCH
_numbers = itertools.count()


class Toy(BaseModel):
    """A linear layer and, to make a checkpoint large, ``ballast`` float32 numbers that nothing trains."""

    def __init__(self, ballast: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.register_buffer("ballast", torch.zeros(ballast))

    def forward(self, inputs, mode="tensor"):
        prediction = self.layer(torch.stack(list(inputs)))
        return dict(loss=(prediction - 1).square().mean()) if mode == "loss" else [prediction.mean()]


class Rows(torch.utils.data.Dataset):
    metainfo = dict(classes=("one",))

    def __init__(self, images: int = IMAGES):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        return dict(inputs=torch.full((4,), index / self.images))


class Scores(BaseMetric):
    """Gives out these scores, one a validation, under each of ``keys``."""

    def __init__(self, scores=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), keys=("acc",)):
        super().__init__()
        self.scores, self.keys = list(scores), keys

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        score = self.scores.pop(0)
        return {key: score for key in self.keys}


def train(
    work_dir: Path, epochs: int = 3, flexible: bool = False, scores=None, ballast: int = 0, hooks=(), **options
) -> Runner:
    """Run the training; ``checkpoint`` in ``options`` holds arguments of the checkpoint hook."""
    runner = build(work_dir, epochs, flexible, scores, ballast, hooks, **options)
    runner.train()
    return runner


def build(
    work_dir: Path,
    epochs: int = 3,
    flexible: bool = False,
    scores=None,
    ballast: int = 0,
    hooks=(),
    checkpoint: dict | None = None,
    images: int = IMAGES,
    **options,
) -> Runner:
    def loader():
        return dict(dataset=Rows(images), batch_size=BATCH, num_workers=0, sampler=dict(type=DefaultSampler))

    arguments = dict(
        model=Toy(ballast),
        work_dir=str(work_dir),
        experiment_name=f"toy{next(_numbers)}",
        train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        # Its end is given, because mmengine would save that of this run, and keep it in a longer one.
        param_scheduler=dict(type="MultiStepLR", milestones=[2], by_epoch=True, end=1000),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(dict(type="AtomicCheckpointHook", interval=1), **(checkpoint or {})),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
    )
    if flexible and options.get("resume") and (latest := find_latest(work_dir)):
        # A FlexibleRunner would ask mmengine for it.
        arguments["load_from"] = str(latest)
    if scores is not None:
        arguments.update(val_dataloader=loader(), val_cfg={}, val_evaluator=[scores])
    return (FlexibleRunner if flexible else Runner)(**dict(arguments, **options))


def checkpoints(work_dir: Path) -> list[str]:
    """What lies in the folder, without logs, dumped configs, checksums and the lock."""
    left_out = (".py", ".sha256", ".json", ".log", LOCK)
    return sorted(path.name for path in work_dir.iterdir() if path.is_file() and not path.name.endswith(left_out))
