"""A minuscule training that can be told to fall ill, to hang or to be slow, in this process or in others.

It prints "step <n>" after each step and "val <n>" after each batch of a validation. Several processes train with DDP
over gloo.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

import hybrid_dense.engine.hooks
import hybrid_dense.engine.loops
import hybrid_dense.engine.optim_wrapper  # noqa: F401  (registers)
from hybrid_dense import cli

IMAGES, BATCH = 16, 2
_numbers = itertools.count()


class Toy(BaseModel):
    """Two losses over BatchNorm, whose statistics an image that is NaN spoils. ``odd`` images have finite losses and
    gradients that are not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return [0]
        for sample in data_samples:
            time.sleep(sample.metainfo.get("forward_seconds", 0))
        images = torch.stack([image.float() for image in inputs])
        scores, boxes = self.head(self.norm(self.stem(images))).unbind(1)
        losses = dict(loss_cls=scores.square().mean(), loss_bbox=boxes.square().mean())
        if any(sample.metainfo.get("odd") for sample in data_samples):
            losses["loss_cls"] = losses["loss_cls"] + (0 * scores).sum().sqrt()  # the root of 0 has no slope
        for sample in data_samples:
            losses["loss_cls"] = losses["loss_cls"] * sample.metainfo.get("factor", 1)
        return losses


class Images(torch.utils.data.Dataset):
    """Image i is images/<i>.jpg; ``marks`` by index are put into its metainfo, "nan" into its pixels, and "seconds"
    are how long it takes to load, with the file "opens" open."""

    metainfo = dict(classes=("one",))

    def __init__(self, marks=None, count=IMAGES):
        self.marks, self.count = marks or {}, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        marks = {**self.marks.get("all", {}), **self.marks.get(str(index), {})}
        with open(marks.get("opens", os.devnull)):
            time.sleep(marks.get("seconds", 0))
        image = torch.full((3, 4, 4), 16.0 * index) + torch.arange(16.0).reshape(4, 4)
        if marks.get("nan"):
            image[0, 0, 0] = torch.nan
        meta = dict(img_path=f"images/{index}.jpg", img_id=index, **marks)
        return dict(inputs=image / 256, data_samples=BaseDataElement(metainfo=meta))


class Nothing(BaseMetric):
    """A metric that takes some ``seconds``."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        time.sleep(self.seconds)
        return dict(mark=1.0)


class Tell(Hook):
    priority = "VERY_LOW"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        print(f"step {runner.iter + 1}", flush=True)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        print(f"val {batch_idx + 1}", flush=True)


def build(
    work_dir,
    epochs=2,
    marks=None,
    val_marks=None,
    workers=0,
    hooks=(),
    metric=0.0,
    resume=False,
    kind=Runner,
    **options,
):
    def loader(marks):
        sampler = dict(type=DefaultSampler, shuffle=False)
        return dict(
            dataset=Images(marks), batch_size=BATCH, num_workers=workers, sampler=sampler, collate_fn=pseudo_collate
        )

    wrapper = dict(type="GuardedOptimWrapper", optimizer=dict(type="AdamW", lr=0.01), **options.pop("wrapper", {}))
    arguments = dict(
        model=Toy(),
        work_dir=str(work_dir),
        experiment_name=f"watched{next(_numbers)}",
        train_dataloader=loader(marks),
        train_cfg=dict(type="ExactEpochLoop", max_epochs=epochs, val_interval=1),
        optim_wrapper=wrapper,
        param_scheduler=dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
        default_hooks=dict(checkpoint=dict(type="AtomicCheckpointHook", interval=options.pop("interval", 1))),
        custom_hooks=list(hooks),
        resume=resume,
        randomness=dict(seed=0),
        log_level="WARNING",
    )
    if val_marks is not None:
        arguments.update(val_dataloader=loader(val_marks), val_cfg={}, val_evaluator=[Nothing(metric)])
    return kind(**dict(arguments, **options))


def main(options: dict) -> int:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        options["launcher"] = "pytorch"
        options["cfg"] = dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))
        options["marks"] = options.pop(f"marks_of_rank_{os.environ['RANK']}", options.get("marks"))
    options = {name: value for name, value in options.items() if not name.startswith("marks_of_rank")}
    hooks = [*options.pop("hooks", [dict(type="SignalHook"), dict(type="SicknessHook")]), Tell()]
    build(hooks=hooks, **options).train()
    print("finished", flush=True)
    return 0


class Process:
    """A fork of this process, with a process group of its own, that trains as `hybrid-dense train` would.

    A fork, because starting Python and loading torch would take most of a test.
    """

    def __init__(self, options: dict, environment: dict):
        self.errors = os.fdopen(os.memfd_create("errors"), "w+")
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                os.dup2(writing, 1)
                os.dup2(self.errors.fileno(), 2)
                os.close(reading)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                sys.argv = ["/usr/bin/hybrid-dense", "train", "configs/toy.py", "--work-dir", "here and there"]
                os.environ.update(environment)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                code = cli.run(lambda args: main(options), None)
                atexit._run_exitfuncs()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        self.output = os.fdopen(reading)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, line: str) -> None:
        """Read the output up to this line."""
        for printed in self.output:
            if printed.strip() == line:
                return
        raise AssertionError(f"no {line!r}: {self.end()}")

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        """Wait for its end; returns exit code, the rest of the output and the error output."""
        killer = threading.Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
        killer.start()
        try:
            output = self.output.read()
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        finally:
            killer.cancel()
        self.errors.seek(0)
        return code, output, self.errors.read()


def start(work_dir: Path, environment=None, **options) -> Process:
    return Process(dict(options, work_dir=str(work_dir)), environment or {})


def start_ranks(work_dir: Path, count: int = 2, **options) -> list[Process]:
    """The same training in several processes, joined by gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = dict(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return [start(work_dir, dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)), **options) for rank in range(count)]
