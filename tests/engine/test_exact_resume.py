"""A training that was stopped and taken up ends bit for bit where one that ran through does."""

import itertools
import random
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler, ClassAwareSampler  # noqa: F401  (registered by import)
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS
from mmengine.runner import FlexibleRunner, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, Subset

import hybrid_dense  # noqa: F401  (registers the loops)
from hybrid_dense.data.tolerant import BrokenImages
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.data_order import SeededBatch, SeededBatches, put_in_order
from hybrid_dense.engine.distributed import end_process
from hybrid_dense.engine.equip import equip
from hybrid_dense.engine.hooks import AtomicCheckpointHook
from hybrid_dense.engine.random_states import (
    read_random_states,
    restore_random_states,
    seed_everything,
    seed_generators,
)
from hybrid_dense.layers.drop_path import DropPath

SAMPLES, BATCH, EPOCHS = 10, 3, 3
STEPS = 4  # an epoch: three whole batches and one of a single sample


class Net(BaseModel):
    """BatchNorm, dropout and drop path: buffers that change, and random numbers in every step."""

    def __init__(self, hidden=8):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 1)
        self.drop, self.path = nn.Dropout(0.3), DropPath(0.3)

    def forward(self, inputs, index=None, mode="tensor"):
        if mode != "loss":
            return [0]
        images = torch.stack(list(inputs))
        images = torch.cat([images, -images])  # BatchNorm needs more than the one sample of the last batch
        features = self.drop(self.norm(self.first(images)).relu())
        return dict(loss=self.second(features + self.path(features)).square().mean())


@TRANSFORMS.register_module(name="TestNoise")
class Noise:
    """Augments with all three generators; ``broken`` samples cannot be read."""

    def __init__(self, broken=(), factor=1.0):
        self.broken, self.factor = broken, factor

    def __call__(self, sample):
        if sample["sample_idx"] in self.broken:
            raise OSError("broken")
        noise = torch.rand(4) + torch.from_numpy(np.random.rand(4)).float() * random.random()
        return dict(inputs=self.factor * noise, index=sample["sample_idx"])


@DATASETS.register_module(name="TestSamples")
class Samples(BaseDataset):
    METAINFO = dict(classes=("even", "odd"))

    def __init__(self, count=SAMPLES, **options):
        self.count = count
        super().__init__(serialize_data=False, **options)

    def load_data_list(self):
        return [dict(width=1 + index % 2, height=1 + index % 3) for index in range(self.count)]

    def get_cat_ids(self, index):
        return [index % 2]


@DATA_SAMPLERS.register_module(name="TestGlobalSampler")
class GlobalSampler(Sampler):
    """Draws from the global generators, as torch's RandomSampler and mmdet's GroupMultiSourceSampler do."""

    def __init__(self, dataset, seed=None):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        for _ in range(len(self)):
            yield (np.random.randint(2) + random.randrange(3) + int(torch.randint(len(self), ()))) % len(self)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        torch.rand(3), np.random.rand(3), random.random()  # a validation that draws random numbers
        return dict(mark=1.0)


class SaveAfter(Hook):
    """Saves ``mid.pth`` after a step, as the checkpoint hooks do."""

    priority = "VERY_LOW"

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step:
            runner.save_checkpoint(runner.work_dir, "mid.pth", by_epoch=False)

    def after_val_epoch(self, runner, metrics=None):
        """As the best checkpoint is saved, when the loop has counted the epoch."""
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        runner.save_checkpoint(runner.work_dir, f"validated_{runner.iter}.pth", meta=meta, by_epoch=False)


class Step(NamedTuple):
    """Epoch, batch and iteration as hooks see them, and what the model was given."""

    number: tuple[int, int, int]
    samples: list
    inputs: torch.Tensor
    loss: torch.Tensor


class Record(Hook):
    """Keeps what each step was given, and draws random numbers where an epoch begins."""

    def __init__(self):
        self.steps, self.draws = [], []

    def before_train_epoch(self, runner):
        self.draws.append((random.random(), np.random.rand(), torch.rand(1).item()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        inputs = torch.stack(list(data_batch["inputs"]))
        number = (runner.epoch, batch_idx, runner.iter)
        self.steps.append(Step(number, list(data_batch["index"]), inputs, outputs["loss"]))


def run_training(
    folder,
    loop="ExactEpochLoop",
    save=0,
    resume=None,
    workers=0,
    persistent=False,
    sampler="DefaultSampler",
    batch_sampler=None,
    dataset=None,
    accumulate=1,
    ema=False,
    seed=None,
    batch=BATCH,
    runner_type=Runner,
    hooks=(),
    hidden=8,
    **options,
):
    """Run a training; returns its record and its last checkpoint's content. ``save`` is the step to save after."""
    by_epoch, record = loop.endswith("EpochLoop"), Record()
    train_loader = dict(
        dataset=dict(dict(type="TestSamples", pipeline=[dict(type="TestNoise")]), **(dataset or {})),
        batch_size=batch,
        num_workers=workers,
        persistent_workers=persistent,
        sampler=dict(type=sampler),
    )
    if batch_sampler:
        train_loader["batch_sampler"] = dict(type=batch_sampler)
    val_loader = dict(
        dataset=dict(type="TestSamples", pipeline=[dict(type="TestNoise")], test_mode=True),
        batch_size=5,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    torch.manual_seed(0)
    model = Net(hidden)
    seed_everything(*folder.name.encode())  # every run finds the generators in another state
    runner = runner_type(
        **dict(
            dict(
                model=model,
                work_dir=str(folder),
                experiment_name="-".join(folder.parts[-2:]),
                train_dataloader=train_loader,
                train_cfg=dict(type=loop, max_epochs=EPOCHS, val_interval=1)
                if by_epoch
                else dict(type=loop, max_iters=EPOCHS * STEPS, val_interval=STEPS),
                optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01), accumulative_counts=accumulate),
                param_scheduler=[
                    dict(type="LinearLR", start_factor=0.1, begin=0, end=9, by_epoch=False),
                    dict(type="CosineAnnealingLR", T_max=EPOCHS, by_epoch=by_epoch),
                ],
                val_dataloader=val_loader,
                val_cfg={},
                val_evaluator=[Nothing()],
                default_hooks=dict(
                    logger=dict(type="LoggerHook", interval=1),
                    checkpoint=dict(type="CheckpointHook", by_epoch=by_epoch, interval=1 if by_epoch else STEPS),
                ),
                custom_hooks=[
                    record,
                    SaveAfter(save),
                    *([dict(type="EMAHook", begin_iter=2)] if ema else []),
                    *hooks,
                ],
                randomness=dict(seed=seed),
                resume=resume is not None,
                load_from=resume and str(resume),
            ),
            **options,
        )
    )
    runner.train()
    last = folder / (f"epoch_{EPOCHS}.pth" if by_epoch else f"iter_{EPOCHS * STEPS}.pth")
    record.folder, record.final = folder, safe_load(last) if last.is_file() else None
    return record


@pytest.fixture
def train(tmp_path):
    """`run_training` in a new folder each time."""
    numbers = itertools.count()
    return lambda *arguments, **options: run_training(tmp_path / str(next(numbers)), *arguments, **options)


def plain(content):
    """Everything of a checkpoint that must be the same in both trainings, tensors as lists."""
    if isinstance(content, torch.Tensor):
        return (str(content.dtype), content.tolist())
    if isinstance(content, np.ndarray):
        return content.tolist()
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    return content


def essence(content):
    log = content["message_hub"]["log_scalars"]
    kept = {name: value for name, value in content.items() if name not in ("meta", "message_hub")}
    return plain(
        dict(
            kept,
            steps=(content["meta"]["epoch"], content["meta"]["iter"], content["meta"]["seed"]),
            log={name: (vars(log[name])["_log_history"]) for name in ("train/loss", "train/lr")},
        )
    )


def assert_same(whole, resumed, first=0):
    """The resumed training had the same batches, numbers and losses from its first step on, and ended the same."""
    assert len(resumed.steps) == len(whole.steps) - first
    for ours, theirs in zip(resumed.steps, whole.steps[first:], strict=True):
        assert plain(ours) == plain(theirs)
    ours, theirs = essence(resumed.final), essence(whole.final)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize(("save", "workers"), [(1, 0), (6, 0), (6, 2), (8, 0), (8, 2)])
def test_in_the_middle_of_an_epoch(train, save, workers):
    whole = train(save=save, workers=workers, ema=True)
    resumed = train(resume=whole.folder / "mid.pth", workers=workers, ema=True)
    assert_same(whole, resumed, first=save)


@pytest.mark.parametrize("checkpoint", ["epoch_1.pth", "validated_4.pth"])
def test_at_the_end_of_an_epoch(train, checkpoint):
    whole = train(ema=True)
    resumed = train(resume=whole.folder / checkpoint, ema=True)
    assert_same(whole, resumed, first=STEPS)
    assert resumed.draws == whole.draws[1:], "hooks that draw before an epoch draw the same"


@pytest.mark.parametrize(("checkpoint", "step"), [("mid.pth", 7), ("iter_8.pth", 8), ("validated_8.pth", 8)])
@pytest.mark.parametrize(("sampler", "workers"), [("DefaultSampler", 2), ("InfiniteSampler", 0)])
def test_iterations(train, sampler, workers, checkpoint, step):
    whole = train("ExactIterLoop", save=7, sampler=sampler, workers=workers)
    resumed = train("ExactIterLoop", resume=whole.folder / checkpoint, sampler=sampler, workers=workers)
    assert_same(whole, resumed, first=step)
    orders = [sum((step.samples for step in whole.steps[n : n + STEPS]), []) for n in (0, STEPS)]
    assert orders[0] != orders[1]
    if sampler == "DefaultSampler":
        assert [sorted(order) for order in orders] == [list(range(SAMPLES))] * 2


def test_stopped_twice(train):
    whole = train(save=3)
    second = train(resume=whole.folder / "mid.pth", save=7)
    third = train(resume=second.folder / "mid.pth")
    assert_same(whole, third, first=7)


@pytest.mark.parametrize("save", [6, 8], ids=["step boundary", "inside a step"])
def test_accumulation(train, save):
    whole = train(save=save, accumulate=3)
    assert ("gradients" in safe_load(whole.folder / "mid.pth")["hybrid_dense"]) == (save == 8)
    resumed = train(resume=whole.folder / "mid.pth", accumulate=3)
    assert_same(whole, resumed, first=save)


@pytest.mark.parametrize(
    "loader",
    [
        dict(batch_sampler="AspectRatioBatchSampler", workers=2),
        dict(sampler="ClassAwareSampler", workers=2),
        dict(sampler="TestGlobalSampler", workers=0),
    ],
    ids=lambda loader: next(iter(loader.values())),
)
def test_samplers_of_all_kinds(train, loader):
    options = dict(loader, default_scope="mmdet")
    whole = train(save=6, **options)
    resumed = train(resume=whole.folder / "mid.pth", **options)
    assert_same(whole, resumed, first=6)


def test_the_number_of_workers_does_not_matter(train):
    alone, helped = train(seed=1), train(seed=1, workers=2)
    assert_same(alone, helped)


def test_epochs_and_samples_differ(train):
    whole = train()
    batches = [tuple(step.inputs.flatten().tolist()) for step in whole.steps]
    assert len(set(batches)) == len(batches)
    assert len({value for batch in batches for value in batch}) == EPOCHS * SAMPLES * 4
    assert len(set(whole.draws)) == EPOCHS


def test_broken_samples_are_replaced_by_the_same_others(train):
    pipeline = [dict(type="TestNoise", broken=(2, 5))]
    options = dict(dataset=dict(pipeline=pipeline), workers=2)
    whole = train(save=6, hooks=[BrokenImages(0.5)], **options)
    assert not {2, 5} & {sample for step in whole.steps for sample in step.samples}
    assert_same(whole, train(resume=whole.folder / "mid.pth", hooks=[BrokenImages(0.5)], **options), first=6)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_pipeline_is_switched_as_ever(train, persistent):
    switch = dict(type="mmdet.PipelineSwitchHook", switch_epoch=2, switch_pipeline=[dict(type="TestNoise", factor=100)])
    options = dict(workers=1, persistent=persistent, hooks=[switch], default_scope="mmdet")
    whole = train(save=6, **options)
    largest = [float(step.inputs.max()) for step in whole.steps]
    assert max(largest[: 2 * STEPS]) < 50 < max(largest[2 * STEPS :])
    assert_same(whole, train(resume=whole.folder / "mid.pth", **options), first=6)


def test_other_ways_to_wrap_data_sets(train):
    """torch's Subset loads a whole batch in one call."""
    samples = Samples(pipeline=[dict(type="TestNoise")])
    options = dict(train_dataloader=dict(
        dataset=Subset(samples, range(9)), batch_size=3, sampler=dict(type="DefaultSampler")
    ))  # fmt: skip
    whole = train(save=5, **options)
    assert len(whole.steps) == 9
    assert_same(whole, train(resume=whole.folder / "mid.pth", **options), first=5)


class StopAfter(Hook):
    """Saves as a signal does, with the engine's own checkpoint hook."""

    priority = "VERY_LOW"

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step:
            next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)).save_now(runner)
            shutil.copy(Path(runner.work_dir, f"iter_{self.step}.pth"), Path(runner.work_dir, "mid.pth"))


@pytest.mark.parametrize("flexible", [False, True])
def test_with_the_other_parts_of_the_engine(train, flexible):
    options = dict(
        default_hooks=dict(checkpoint=dict(type="AtomicCheckpointHook", interval=1)),
        optim_wrapper=dict(
            type="GuardedOptimWrapper",
            optimizer=dict(type="AdamW", lr=0.01),
            accumulative_counts=4,
            clip_grad=dict(max_norm=1),
        ),
    )
    if flexible:
        options.update(runner_type=FlexibleRunner, strategy=dict(type="SingleDeviceStrategy"))
    whole = train(hooks=[StopAfter(6)], **options)
    assert "gradients" in safe_load(whole.folder / "mid.pth")["hybrid_dense"]
    assert_same(whole, train(resume=whole.folder / "mid.pth", **options), first=6)


def test_without_the_average_the_trained_weights_go_on(train):
    whole = train(save=6, seed=0)
    averaged = train(save=6, seed=0, ema=True)  # the average changes nothing that is trained
    assert_same(whole, train(resume=averaged.folder / "mid.pth", seed=0), first=6)


@pytest.mark.parametrize(
    ("drop", "change", "message"),
    [
        ("epoch", {}, r"no training to go on with \(no epoch\).*load_from="),
        ("optimizer", {}, r"no training to go on with \(no optimizer\)"),
        (None, {"hidden": 9}, r"of another model: 5 \(first.weight, first.bias, …\) missing in it or of another shape"),
        (None, {"type": "SGD"}, "odd.pth is of another optimizer, one with .*betas"),
        (
            None,
            {"paramwise_cfg": dict(bias_lr_mult=2)},
            "odd.pth is of another optimizer: it has 6 parameters in 1 groups, this one 6 in 6",
        ),
    ],
)
def test_what_is_no_checkpoint_of_this_training_is_refused(train, tmp_path, drop, change, message):
    content = safe_load(train(save=6).folder / "mid.pth")
    for part in (content, content["meta"]):
        part.pop(drop, None)
    torch.save(content, tmp_path / "odd.pth")
    optimizer = dict(type=change.get("type", "AdamW"), lr=0.01)
    options = dict(optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=change.get("paramwise_cfg")))
    with pytest.raises(ValueError, match=message):
        train(resume=tmp_path / "odd.pth", hidden=change.get("hidden", 8), **options)


def test_a_training_that_has_ended_says_so(train, capsys):
    whole = train()
    train(resume=whole.folder / "epoch_3.pth")
    assert "nothing left to train: the checkpoint is at iteration 12 of 12" in capsys.readouterr().out


@pytest.mark.parametrize("by_epoch", [True, False])
def test_checkpoints_of_plain_mmengine_go_on_at_the_right_batch(train, by_epoch, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # mmengine waits 2 s where an epoch begins
    loop = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    whole = train(loop, save=6, train_cfg=dict(
        dict(type=loop, val_interval=100), **(dict(max_epochs=EPOCHS) if by_epoch else dict(max_iters=EPOCHS * STEPS))
    ))  # fmt: skip
    resumed = train("ExactEpochLoop" if by_epoch else "ExactIterLoop", resume=whole.folder / "mid.pth")
    assert [step.number for step in resumed.steps] == [step.number for step in whole.steps[6:]]
    assert [step.samples for step in resumed.steps] == [step.samples for step in whole.steps[6:]]


def test_another_batch_size_goes_on_after_the_same_share_of_the_epoch(train, capsys):
    whole = train(save=6, accumulate=3)
    capsys.readouterr()
    resumed = train(resume=whole.folder / "mid.pth", batch=1, accumulate=3)
    # Two batches of three of epoch 2 are done; with single samples an epoch has ten steps.
    assert [step.number for step in resumed.steps] == [(1, n, 10 + n) for n in range(6, 10)] + [
        (2, n, 20 + n) for n in range(10)
    ]
    said = "saved with 1 × 3 images a step of 10, resumed with 1 × 1 images a step of 10: epoch 2 goes on after 60%"
    assert capsys.readouterr().out.count(said) == 1
    assert "gradients" not in resumed.final["hybrid_dense"], "its last step is known to be the last"


def test_weights_to_start_from_are_no_resume(train):
    whole = train(save=2)
    started = train(load_from=str(whole.folder / "mid.pth"))
    assert [step.number for step in started.steps] == [step.number for step in whole.steps]


def test_random_states_are_as_they_were_when_it_was_saved(train):
    class Look(Hook):
        def before_run(self, runner):
            runner.register_hook(LookLast(), priority="LOWEST")

    class LookLast(Hook):
        def before_train(self, runner):
            states.append(plain(read_random_states()))

    whole, states = train(save=6), []
    train(resume=whole.folder / "mid.pth", hooks=[Look()])
    assert states == [plain(safe_load(whole.folder / "mid.pth")["hybrid_dense"]["random_states"])]


def draw_all():
    return random.random(), random.gauss(0, 1), np.random.randn(), torch.randn(3).tolist()


def test_random_states_are_plain_data(tmp_path):
    np.random.randn()  # numpy keeps the second of a pair of normal numbers for the next call
    random.gauss(0, 1)
    torch.save(read_random_states(), tmp_path / "states.pth")
    drawn = draw_all()
    restore_random_states(torch.load(tmp_path / "states.pth", weights_only=True))
    assert draw_all() == drawn


def test_seeds_differ_in_every_number():
    seeds = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**31,), (2**31, 0)]
    drawn = []
    for numbers in seeds * 2:
        seed_everything(*numbers)
        drawn.append(str(draw_all()))
    assert drawn[: len(seeds)] == drawn[len(seeds) :]
    assert len(set(drawn)) == len(seeds)
    assert 0 <= seed_generators(5) < 2**63


def test_loaders_that_cannot_be_taken_up_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match=r"a Stream that .*mmengine\.EpochBasedTrainLoop"):
        put_in_order(DataLoader(Stream(), batch_size=2), 0, 0)
    with pytest.raises(ValueError, match="a list that .* give it a data set with indices and a batch_size"):
        put_in_order(DataLoader([1, 2], batch_size=None), 0, 0)


def test_a_loader_is_as_before_but_for_its_order():
    loader = DataLoader(range(5), batch_size=2, shuffle=True)
    sampler = loader.sampler
    order = put_in_order(loader, 0, 0)
    assert (loader.batch_size, loader.sampler, len(loader)) == (2, sampler, 3)
    assert (order.sampler, order.batch_size, order.drop_last) == (sampler, 2, False)
    once = [batch.tolist() for batch in loader]
    assert sorted(sum(once, [])) == [0, 1, 2, 3, 4]
    assert [batch.tolist() for batch in loader] == once
    order.start_at(0, 2)
    assert [batch.tolist() for batch in loader] == once[2:]
    order.start_at(1, 0)
    assert [batch.tolist() for batch in loader] != once
    assert put_in_order(loader, 0, 0).batches is order.batches, "the loader of an earlier run is not wrapped twice"


def test_a_batch_is_a_sequence_of_its_indices():
    batch = SeededBatch([3, 4], (1,))
    assert (list(batch), len(batch), batch[1], 4 in batch) == ([3, 4], 2, 4, True)
    assert isinstance(next(iter(SeededBatches([[1]], 0, 0))), SeededBatch)


@pytest.mark.parametrize(
    ("loop", "ours"),
    [
        (dict(type="EpochBasedTrainLoop"), "ExactEpochLoop"),
        (dict(type=IterBasedTrainLoop), "ExactIterLoop"),
        (dict(by_epoch=True), "ExactEpochLoop"),
        (dict(by_epoch=False), "ExactIterLoop"),
        (dict(type="mmengine.EpochBasedTrainLoop"), "mmengine.EpochBasedTrainLoop"),
    ],
    ids=str,
)
def test_configs_get_these_loops(loop, ours):
    assert equip(Config(dict(train_cfg=dict(loop, max_epochs=1)))).train_cfg == dict(type=ours, max_epochs=1)


def test_two_processes(tmp_path, in_two_processes):
    """Over gloo; each compares what it saw itself (below)."""
    in_two_processes(__file__)
    batches = [torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2)]
    values = torch.cat([batch.flatten() for rank in batches for batch in rank])
    assert len(values.unique()) == len(values) == EPOCHS * SAMPLES * 4, "the processes augment independently"


def compare_in_each_process(folder):
    torch.distributed.init_process_group("gloo")
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    options = dict(launcher="pytorch", cfg=dict(model_wrapper_cfg=wrapper), workers=1)
    whole = run_training(folder / "whole", save=3, **options)
    resumed = run_training(folder / "resumed", resume=folder / "whole/mid.pth", **options)
    assert len(whole.steps) == 6
    torch.distributed.barrier()
    assert_same(whole, resumed, first=3)
    torch.save([step.inputs for step in whole.steps], folder / f"rank{torch.distributed.get_rank()}.pth")


if __name__ == "__main__":
    compare_in_each_process(Path(sys.argv[1]))
    end_process(0)
