"""RichProgressHook in real, minuscule runs of mmengine's Runner."""

import io
import itertools
import logging
import re
import time
from pathlib import Path

import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler  # noqa: F401  (registers mmdet's samplers)
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from rich.console import Console
from torch import nn

import hybrid_dense.engine.hooks.progress as progress
from hybrid_dense.engine.hooks import RichProgressHook

IMAGES, BATCH = 12, 4
STEPS = IMAGES // BATCH


class Toy(BaseModel):
    """One weight; ``events`` are called with the number of the training step, before it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.step = 0
        self.event = lambda step: None

    def forward(self, inputs, mode="tensor"):
        if mode != "loss":
            return [0]
        self.step += 1
        self.event(self.step)
        return dict(loss=self.layer(torch.ones(1)).square().mean())


class Images(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))

    def get_data_info(self, index):
        return dict(width=1, height=2)


class Batches:
    """As mmdet's of several data sets, whose size is a list; or one that has none."""

    sampler = None

    def __init__(self, sizes):
        if sizes:
            self.batch_size = sizes

    def __len__(self):
        return STEPS

    def __iter__(self):
        return iter([list(range(BATCH))] * STEPS)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(mark=1.0)


class BrokenError(Exception):
    pass


@pytest.fixture
def runner(tmp_path, request):
    """Build a Runner of ``epochs`` epochs of three steps; ``options`` replace or add arguments."""
    numbers = itertools.count()

    def build(epochs=2, hook=None, train_loader=None, **options):
        def loader(**more):
            return dict(
                dict(dataset=Images(), batch_size=BATCH, num_workers=0, sampler=dict(type=DefaultSampler)), **more
            )

        arguments = dict(
            model=Toy(),
            work_dir=str(tmp_path / "run"),
            experiment_name=f"{request.node.name}{next(numbers)}",
            train_dataloader=loader(**(train_loader or {})),
            train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            val_dataloader=loader(),
            val_cfg={},
            val_evaluator=[Nothing()],
            test_dataloader=loader(),
            test_cfg={},
            test_evaluator=[Nothing()],
            default_hooks=dict(checkpoint=None),
            custom_hooks=[hook or RichProgressHook(line_seconds=0)],
        )
        return Runner(**dict(arguments, **options))

    return build


def levels(runner):
    return [handler.level for handler in runner.logger.handlers]


def console_levels(runner):
    return [handler.level for handler in runner.logger.handlers if not isinstance(handler, logging.FileHandler)]


LINE = re.compile(r"^(train|test) (\d+)/(\d+)  .*?([\d.]+) images/s  [\d.]+ GiB.*  (\d+) s left$")


def plain_lines(capsys):
    return [match for line in capsys.readouterr().err.splitlines() if (match := LINE.match(line))]


def test_without_a_terminal_it_prints_plain_lines(runner, capsys):
    run = runner()
    capsys.readouterr()
    run.train()
    lines = plain_lines(capsys)
    assert [(line[2], line[3]) for line in lines] == [(str(step), "6") for step in range(1, 7)]
    assert [re.search(r"epoch (\d)/2", line[0])[1] for line in lines] == list("111222")
    assert all(re.search(r"loss \d+\.\d{3}", line[0]) for line in lines)
    assert lines[-1][5] == "0"


def test_without_a_terminal_nothing_is_drawn(runner, capsys):
    run = runner()
    capsys.readouterr()
    run.train()
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err


def test_plain_lines_are_rare_by_default(runner, capsys):
    run = runner(hook=RichProgressHook())
    capsys.readouterr()
    run.train()
    assert plain_lines(capsys) == []


def test_evaluation_has_a_bar_too(runner, capsys):
    run = runner()
    capsys.readouterr()
    before = levels(run)
    run.test()
    assert [(line[1], line[2], line[3]) for line in plain_lines(capsys)] == [("test", str(n), "3") for n in (1, 2, 3)]
    assert levels(run) == before


def test_standard_output_is_left_to_results(runner, capsys):
    run = runner(epochs=1)
    capsys.readouterr()
    run.train()
    run.test()
    assert "images/s" not in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is told to go on."""

    class Clock:
        now = 1000.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_speed_and_time_left(runner, capsys, clock):
    run = runner(epochs=4)
    run.model.event = lambda step: setattr(clock, "now", clock.now + 0.5)
    capsys.readouterr()
    run.train()
    lines = plain_lines(capsys)
    assert len(lines) == 12
    assert {line[4] for line in lines} == {"8.0"}, "4 images in half a second"
    assert [int(line[5]) for line in lines] == [round((12 - step) * 0.5) for step in range(1, 13)]


def test_a_validation_is_not_taken_for_the_speed_of_a_step(runner, capsys, clock):
    run = runner(epochs=2)
    run.model.event = lambda step: setattr(clock, "now", clock.now + (100.5 if step == STEPS + 1 else 0.5))
    capsys.readouterr()
    run.train()
    assert all(float(line[4]) > 4 for line in plain_lines(capsys))


def test_batch_samplers_are_understood(runner, capsys, clock):
    """mmdet's stock configs group images by aspect ratio; a DataLoader then has no batch_size of its own."""
    run = runner(train_loader=dict(batch_sampler=dict(type="mmdet.AspectRatioBatchSampler")))
    run.model.event = lambda step: setattr(clock, "now", clock.now + 0.5)
    capsys.readouterr()
    run.train()
    assert {line[4] for line in plain_lines(capsys)} == {"8.0"}


@pytest.mark.parametrize(("sizes", "speed"), [([3, 5], "16.0"), (None, None)])
def test_batch_samplers_of_several_data_sets_and_of_no_size_are_too(runner, capsys, clock, sizes, speed):
    batches = Batches(sizes)
    run = runner()
    run.train_loop.dataloader = torch.utils.data.DataLoader(Images(), batch_sampler=batches, collate_fn=pseudo_collate)
    run.model.event = lambda step: setattr(clock, "now", clock.now + 0.5)
    capsys.readouterr()
    run.train()
    said = capsys.readouterr().err
    assert said.count("images/s") == (2 * STEPS if speed else 0) and (speed or "loss") in said


def test_training_by_iterations(runner, capsys):
    run = runner(train_cfg=dict(by_epoch=False, max_iters=5, val_interval=10))
    capsys.readouterr()
    run.train()
    assert [(line[2], line[3]) for line in plain_lines(capsys)] == [(str(step), "5") for step in range(1, 6)]


def test_resumed_training_goes_on_counting(runner, capsys):
    first = runner(epochs=1, default_hooks={})
    first.train()
    run = runner(epochs=2, default_hooks={}, load_from=str(first.work_dir) + "/epoch_1.pth", resume=True)
    capsys.readouterr()
    run.train()
    assert [(line[2], line[3]) for line in plain_lines(capsys)] == [("4", "6"), ("5", "6"), ("6", "6")]


def test_console_is_quiet_during_training_and_as_before_after_it(runner):
    run = runner()
    before, during = levels(run), []
    run.model.event = lambda step: during.append(console_levels(run))
    run.train()
    assert before.count(logging.WARNING) == 0
    assert during == [[logging.WARNING]] * 6
    assert levels(run) == before


def test_the_log_file_keeps_everything(runner):
    run = runner()
    run.train()
    log = Path(run.log_dir, f"{run.timestamp}.log").read_text()
    assert "Epoch(val) [2]" in log


def break_at(step):
    def event(now):
        if now == step:
            raise BrokenError

    return event


@pytest.mark.parametrize("error", [BrokenError, KeyboardInterrupt])
def test_console_is_as_before_after_an_exception(runner, error):
    run = runner()
    before = levels(run)

    def event(step):
        if step == 4:
            raise error

    run.model.event = event
    with pytest.raises(error):
        run.train()
    assert levels(run) == before


def test_the_next_run_after_an_exception_ends_clean(runner, capsys):
    """A notebook: the first training breaks, the second one runs through."""
    hook = RichProgressHook(line_seconds=0)
    run = runner(hook=hook)
    before = levels(run)
    run.model.event = break_at(2)
    with pytest.raises(BrokenError):
        run.train()
    run.model.event = lambda step: None
    capsys.readouterr()
    run.test()
    assert len(plain_lines(capsys)) == 3
    assert levels(run) == before


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 150 columns is sent."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **options: Console(file=screen, force_terminal=True, width=150))
    return screen


def test_on_a_terminal_it_draws_a_bar(runner, terminal, capsys):
    run = runner()
    run.model.event = lambda step: time.sleep(0.3 if step == 6 else 0)  # it draws ten times a second
    capsys.readouterr()
    run.train()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "6/6" in drawn
    assert re.search(r"epoch 2/2  loss \d+\.\d{3}  [\d.]+ images/s  [\d.]+ GiB", drawn)
    assert plain_lines(capsys) == []


def test_the_terminal_has_its_cursor_back_after_an_exception(runner, terminal):
    run = runner()
    run.model.event = break_at(2)
    with pytest.raises(BrokenError):
        run.train()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hide) == terminal.getvalue().count(show) > 0


def test_other_ranks_are_silent(runner, capsys, monkeypatch):
    run = runner()
    monkeypatch.setattr(run, "_rank", 1)
    before, during = levels(run), []
    run.model.event = lambda step: during.append(levels(run))
    capsys.readouterr()
    run.train()
    assert plain_lines(capsys) == []
    assert during == [before] * 6
