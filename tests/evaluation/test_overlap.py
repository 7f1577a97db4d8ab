"""Loops whose metrics work in a thread: the same figures, order and errors as mmengine's."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner, ValLoop
from mmengine.runner import TestLoop as PlainTestLoop  # pytest would collect it
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from hybrid_dense.engine.distributed import end_process
from hybrid_dense.evaluation import BoundaryIoUMetric
from hybrid_dense.evaluation.overlap import OverlappedEvaluator, overlap_evaluation

CLASSES = ("ground", "road", "house")
BATCHES = 6


class Maps(torch.utils.data.Dataset):
    """An image each with its label map; batches of one."""

    metainfo = dict(classes=CLASSES)

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        return dict(number=index, label=torch.from_numpy(generator.integers(0, 3, (1, 40, 50))))


class Guesser(BaseModel):
    """Says of some pixels what is labelled; ``at`` is called with the number of each image first."""

    def __init__(self, at=lambda number: None):
        super().__init__()
        self.at = at
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, number, label, mode="tensor"):
        self.at(number[0])
        predicted = torch.where(torch.arange(50) < 8 * number[0], label[0], 0)
        fields = dict(pred_sem_seg=PixelData(data=predicted), gt_sem_seg=PixelData(data=label[0]))
        sample = BaseDataElement(metainfo=dict(number=number[0]), logits=self.scale * 2)
        for name, value in fields.items():
            sample.set_field(value, name, dtype=PixelData)
        return [sample]


class Watched(BaseMetric):
    """Keeps the number of each image, whether the batch is its own, and where it was processed."""

    default_prefix = "seen"

    def __init__(self, at=lambda number: None):
        super().__init__()
        self.at = at
        self.threads: list[str] = []

    def process(self, data_batch, data_samples):
        for number, sample in zip(data_batch["number"], data_samples, strict=True):
            assert sample["number"] == number and not torch.is_grad_enabled()
            self.at(number)
            self.results.append(number)
            self.threads.append(threading.current_thread().name)

    def compute_metrics(self, results):
        return {str(place): number for place, number in enumerate(results)}


def make_runner(tmp_path, metrics, model=None, loop="OverlappedTestLoop", **options) -> Runner:
    return Runner(
        model=model or Guesser(),
        work_dir=str(tmp_path),
        test_dataloader=dict(dataset=Maps(), sampler=dict(type="DefaultSampler", shuffle=False), batch_size=1),
        test_cfg=dict(type=loop, **options),
        test_evaluator=Evaluator(metrics),
        default_scope="mmengine",
        experiment_name=f"{tmp_path.name}_{loop}",
        log_level="ERROR",
        launcher="pytorch" if dist.is_initialized() else "none",
        cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
    )


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("metrics")]


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_figures_and_order_are_those_of_mmengines_loop(tmp_path, ahead):
    plain = make_runner(tmp_path, [Watched(), BoundaryIoUMetric()], loop="TestLoop").test()
    watched = Watched()
    ours = make_runner(tmp_path, [watched, BoundaryIoUMetric()], ahead=ahead).test()
    assert ours == plain and 0 < ours["mBIoU"] < 100
    assert [ours[f"seen/{place}"] for place in range(BATCHES)] == list(range(BATCHES))
    assert all(name.startswith("metrics") == bool(ahead) for name in watched.threads)
    assert not threads(), "the thread ends with the loop"


def test_the_network_goes_on_while_a_metric_works(tmp_path):
    """The metric of each batch waits until the network has begun the next one; in turns this would never end."""
    begun = [threading.Event() for _ in range(BATCHES + 1)]
    begun[BATCHES].set()

    def wait_for_next(number):
        assert begun[number + 1].wait(20), "the network waited for the metric"

    make_runner(tmp_path, [Watched(wait_for_next)], Guesser(lambda number: begun[number].set())).test()


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_batches_wait_than_may(tmp_path, ahead):
    """While the metric of the first batch holds on, the network comes as far as ``ahead`` and no further."""
    numbers: list[int] = []
    held: list[int] = []
    full = threading.Event()

    def network(number):
        numbers.append(number)
        if number == ahead:
            full.set()

    def hold(number):
        if number == 0:
            assert full.wait(20)
            time.sleep(0.1)  # enough to go too far
            held.extend(numbers)

    make_runner(tmp_path, [Watched(hold)], Guesser(network), ahead=ahead).test()
    assert held == list(range(ahead + 1))


class BrokenMapError(ValueError):
    pass


@pytest.mark.parametrize("bad", [0, 2, BATCHES - 1])
def test_what_a_metric_raises_ends_the_loop(tmp_path, bad):
    def fail(number):
        if number == bad:
            raise BrokenMapError(f"label map {number} is broken")

    with pytest.raises(BrokenMapError, match=f"label map {bad} is broken") as caught:
        make_runner(tmp_path, [Watched(fail)]).test()
    assert "fail" in [entry.name for entry in caught.traceback], "the traceback leads into the metric"
    assert not threads()


def test_an_interrupted_network_leaves_no_thread_and_no_waiting_batch(tmp_path):
    """Ctrl-C while the first batch is in work: this one is finished, the one behind it is dropped."""

    waiting = []

    def hold(number):
        end = time.monotonic() + 20
        while not (waiting and waiting[1].cancelled()) and time.monotonic() < end:
            time.sleep(0.01)

    def interrupt(number):
        if number == 2:
            waiting.extend(runner.test_loop.evaluator._waiting)
            raise KeyboardInterrupt

    watched = Watched(hold)
    runner = make_runner(tmp_path, [watched], Guesser(interrupt), ahead=2)
    with pytest.raises(KeyboardInterrupt):
        runner.test()
    assert watched.results == [0] and waiting[1].cancelled() and not threads()


def test_the_metrics_thread_stands_on_the_networks_gpu(monkeypatch):
    """A thread starts out on the first one, where its process would then hold memory for nothing."""
    chosen = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("torch.cuda.current_stream", lambda: None)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: chosen.append((device, threads())))
    with OverlappedEvaluator(Evaluator([Watched()])) as evaluator:
        evaluator.process([], dict(number=[]))
    ((device, at_work),) = chosen
    assert device == 3 and at_work


def test_hooks_may_change_the_samples_afterwards():
    """A hook that draws or shortens a sample after the iteration does not reach what the metric sees."""
    inner = Evaluator([Watched()])
    sample = BaseDataElement(metainfo=dict(number=7))
    with OverlappedEvaluator(inner) as evaluator, torch.no_grad():
        evaluator._thread.submit(threading.Event().wait, 0.2)  # the metric begins later
        evaluator.process([sample], dict(number=[7]))
        sample.set_metainfo(dict(number=8))
        assert evaluator.evaluate(1) == {"seen/0": 7}


def test_configs_get_these_loops():
    cfg = Config(dict(val_cfg=dict(), test_cfg=dict(type="TestLoop", fp16=True)))
    overlap_evaluation(cfg)
    assert cfg.val_cfg == dict(type="OverlappedValLoop")
    assert cfg.test_cfg == dict(type="OverlappedTestLoop", fp16=True)
    classes = Config(dict(val_cfg=dict(type=ValLoop), test_cfg=dict(type=PlainTestLoop)))
    overlap_evaluation(classes)
    assert (classes.val_cfg.type, classes.test_cfg.type) == ("OverlappedValLoop", "OverlappedTestLoop")


def test_loops_of_another_make_and_none_at_all_stay():
    cfg = Config(dict(val_cfg=None, test_cfg=dict(type="VideoTestLoop")))
    overlap_evaluation(cfg)
    assert cfg.val_cfg is None and cfg.test_cfg == dict(type="VideoTestLoop")


def test_less_than_no_batch_cannot_wait():
    with pytest.raises(ValueError, match="ahead=-1 is no number of batches"):
        OverlappedEvaluator(Evaluator([Watched()]), ahead=-1)


@pytest.mark.slow
def test_two_processes(in_two_processes):
    """Over gloo; each compares what both loops say of all images (below)."""
    in_two_processes(__file__)


def compare_in_a_group(tmp_path: Path) -> None:
    dist.init_process_group("gloo")
    plain = make_runner(tmp_path, [Watched(), BoundaryIoUMetric()], loop="TestLoop").test()
    ours = make_runner(tmp_path, [Watched(), BoundaryIoUMetric()]).test()
    assert ours == plain and [ours[f"seen/{place}"] for place in range(BATCHES)] == list(range(BATCHES))
    dist.barrier()


if __name__ == "__main__":
    compare_in_a_group(Path(sys.argv[1]))
    end_process(0)
