"""find_batch on a model of a known appetite: every image costs several times 16 MiB."""

import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn

from hybrid_dense.engine import auto_batch
from hybrid_dense.engine.auto_batch import (
    HEAD_ROOM,
    BatchSearch,
    Trial,
    choose_samples,
    extrapolate,
    find_batch,
    largest,
)

MIB = 2**20
IMAGE_MIB = 16


@MODELS.register_module(force=True)
class Eater(BaseModel):
    def __init__(self, least=1, dies_at=None):
        super().__init__()
        self.weight, self.least, self.dies_at = nn.Parameter(torch.ones(())), least, dies_at

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if len(inputs) < self.least:
            raise ValueError("Expected more than 1 value per channel when training, got input size [1, 4, 1, 1]")
        if len(inputs) == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        # Written to, so that the memory is really there, and kept for the backward pass.
        kept = torch.full((len(inputs), IMAGE_MIB * MIB // 4), 0.5) * self.weight
        return dict(loss=kept.square().mean())


@DATASETS.register_module(force=True)
class Blank(torch.utils.data.Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(3, 4, 4 + index % 3))


def config(length=1000, **model):
    return Config(
        dict(
            model=dict(type="Eater", **model),
            train_dataloader=dict(
                batch_size=7,
                num_workers=2,
                persistent_workers=True,
                dataset=dict(type="Blank", length=length),
                sampler=dict(type="DefaultSampler", shuffle=True),
                collate_fn=dict(type="pseudo_collate"),
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=5),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0), accumulative_counts=4),
            param_scheduler=[dict(type="PolyLR")],
            auto_scale_lr=dict(enable=True, base_batch_size=16),
            custom_hooks=[dict(type="WatchdogHook")],
            default_scope="mmengine",
            work_dir="/nowhere/to/be/written",
        )
    )


def build(cfg):
    return Runner.from_cfg(cfg)


class Answers:
    """What the child would send."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


def search(cfg, folder, memory, world_size=1):
    return auto_batch._search(Answers(), cfg, build, 0, world_size, memory, folder)


def test_another_process_tries_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config()
    before = cfg.dump(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    memory = 3000 * MIB
    found = find_batch(cfg, build, memory=memory)
    assert [trial.batch for trial in found.trials] == [1, 2, 4]
    peaks = [trial.peak for trial in found.trials]
    # A few tensors of its size for every image; how many live at once differs from run to run.
    per_image = max(peaks[2] - peaks[1], (peaks[2] - peaks[0]) / 1.5) / 2
    assert 2 * IMAGE_MIB * MIB <= per_image <= 12 * IMAGE_MIB * MIB
    assert found.budget == int(memory * (1 - HEAD_ROOM)) and found.extrapolated
    assert found.batch == 4 + int((found.budget - peaks[2]) / per_image)
    assert found.sizes == (4, 6) and found.data == 1000
    after = cfg.dump(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert before[0] == after[0] and before[2] == after[2]
    assert torch.equal(before[1], after[1]) and (before[3] == after[3]).all()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_the_system_ends_names_the_batch():
    with pytest.raises(ValueError, match=r"--auto-batch: steps with a batch of 2 ended the process .*exit code -9"):
        find_batch(config(dies_at=2), build, memory=6000 * MIB)


def test_a_model_that_cannot_train_on_one_image_begins_with_two(tmp_path):
    found = search(config(least=2), tmp_path, memory=200_000 * MIB)
    assert [trial.batch for trial in found.trials] == [2, 4, 8]
    assert found.batch == 1000 or found.batch > 8


def test_nothing_fits(tmp_path):
    with pytest.raises(ValueError, match=r"a batch of 1 needs .* GiB, and 0\.08 GiB are there \(15% kept free\)"):
        search(config(), tmp_path, memory=100 * MIB)


def test_no_batch_is_larger_than_a_process_has_images(tmp_path):
    found = search(config(length=6), tmp_path, memory=200_000 * MIB, world_size=2)
    assert (found.batch, found.data) == (3, 3)
    assert [trial.batch for trial in found.trials] == [1, 2]


def test_an_error_of_the_training_is_told_as_one_line():
    answers = Answers()
    auto_batch._explore(answers, Config(dict(strategy=dict(type="FSDPStrategy"))), build, 0, 1, 100)
    assert answers.sent == [
        ("found", "strategy FSDPStrategy: a single process cannot rehearse it; leave --strategy out")
    ]


@pytest.mark.parametrize(("most", "limit"), [(1, 100), (2, 100), (3, 100), (37, 100), (64, 64), (500, 64), (63, 64)])
def test_doubling_and_halving_find_the_largest(most, limit):
    tried = []
    found = largest(lambda batch: tried.append(batch) or batch <= most, 1, limit, first_fits=True)
    assert found == min(most, limit)
    assert max(tried, default=1) <= limit and len(tried) == len(set(tried)) <= 14


def test_where_the_first_does_not_fit_there_is_none():
    assert largest(lambda batch: True, 2, 100, first_fits=False) == 1


def trials(*peaks):
    return [Trial(batch, peak) for batch, peak in zip((1, 2, 4), peaks, strict=False)]


@pytest.mark.parametrize(
    ("peaks", "budget", "batch"),
    [
        ((110, 120, 140), 200, 10),
        ((110, 120, 140), 199, 9),
        ((100, 100, 140), 200, 7),  # the steepest line: the peak of a process hides what came before
        ((110, 120, 140), 130, 2),
        ((110, 120), 115, 1),
        ((110,), 115, 1),
        ((110,), 100, 0),
        ((100, 100, 100), 200, 50),
    ],
)
def test_extrapolation(peaks, budget, batch):
    assert extrapolate(trials(*peaks), budget, limit=50) == batch


def test_the_largest_widest_tallest_and_most_crowded_images_come_first():
    def sample(height, width, objects):
        return dict(inputs=torch.zeros(3, height, width), data_samples=SimpleNamespace(gt_instances=range(objects)))

    shapes = [(2, 2, 0), (9, 9, 1), (3, 20, 1), (20, 4, 1), (3, 3, 99), (8, 9, 2)]
    chosen = choose_samples([sample(*shape) for shape in shapes])
    found = [(*s["inputs"].shape[1:], len(s["data_samples"].gt_instances)) for s in chosen]
    assert found == [(9, 9, 1), (3, 20, 1), (20, 4, 1), (3, 3, 99), (8, 9, 2), (2, 2, 0)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: memory of a GPU is searched there")
def test_a_gpu_is_filled_and_not_overfilled():
    """One GiB is pretended to be all there is; every image takes its share of it."""
    found = find_batch(config(), build, memory=1024 * MIB)
    assert isinstance(found, BatchSearch) and not found.extrapolated
    assert max(trial.batch for trial in found.trials if (trial.peak or found.budget + 1) <= found.budget) == found.batch
    assert any(trial.peak is None or trial.peak > found.budget for trial in found.trials)
