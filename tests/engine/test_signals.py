"""SIGTERM, SIGUSR1 and Ctrl-C on real processes: one good checkpoint, the exit code, the command that goes on."""

import os
import re
import signal
import time

import pytest
import torch
import watched_training as training
from mmengine.runner import FlexibleRunner, Runner

from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.hooks import AtomicCheckpointHook, signals
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.stop import TrainingStopped

SLOW = {"all": {"seconds": 0.05}}


def steps(output):
    return [int(number) for number in re.findall(r"step (\d+)", output)]


def weights(work_dir):
    return safe_load(find_latest(work_dir))["state_dict"]


def assert_equal_weights(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("uninterrupted")
    training.build(work_dir, epochs=2).train()
    return weights(work_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_a_checkpoint_from_which_the_training_goes_on_exactly(tmp_path, uninterrupted, number):
    process = training.start(tmp_path, epochs=2, marks=SLOW)
    process.wait_for("step 3")
    process.send_signal(number)
    code, output, errors = process.end()
    assert code == 143
    assert "finished" not in output
    saved = find_latest(tmp_path)
    last = max(steps(output), default=3)
    assert saved.name == f"iter_{last}.pth"
    assert last <= 5  # the iteration that ran, or at most the next two
    assert find_damage(saved) is None
    assert len(list(tmp_path.glob("*.pth"))) == 1
    assert "Traceback" not in errors
    assert re.fullmatch(
        rf"hybrid-dense: {number.name}: saved {saved} after iteration {last}; go on with: (/usr/bin/)?hybrid-dense "
        rf"train configs/toy\.py --work-dir 'here and there' --resume auto",
        errors.strip().splitlines()[-1],
    )
    training.build(tmp_path, epochs=2, resume=True).train()
    assert_equal_weights(weights(tmp_path), uninterrupted)


def test_ctrl_c_ends_after_the_iteration_and_a_second_one_at_once(tmp_path):
    first = training.start(tmp_path / "first", epochs=50, marks=SLOW)
    second = training.start(tmp_path / "second", epochs=50, marks={"2": {"forward_seconds": 50}})
    first.wait_for("step 2")
    first.send_signal(signal.SIGINT)
    second.wait_for("step 1")
    for _ in range(2):
        time.sleep(0.5)  # signals of one kind that wait are one
        second.send_signal(signal.SIGINT)

    code, _, errors = first.end()
    assert code == 130
    assert "Traceback" not in errors
    assert "once more ends at once" in errors
    assert re.search(r"go on with: .*--resume auto$", errors.strip().splitlines()[-1])
    assert find_latest(tmp_path / "first").name.startswith("iter_")

    code, output, errors = second.end(timeout=20)
    assert code == 130
    assert steps(output) == []
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1] == "hybrid-dense: interrupted"
    assert find_latest(tmp_path / "second") is None


@pytest.mark.parametrize("seconds", [0.05, 600], ids=["working", "stuck"])
def test_data_workers_that_get_the_signal_too_neither_break_nor_hang_it(tmp_path, seconds):
    """torchrun and Slurm signal the whole process group. One worker of two never comes back in the second case."""
    marks = {"all": {"seconds": 0.05}, "9": {"seconds": seconds}}
    process = training.start(tmp_path, epochs=3, marks=marks, workers=2)
    process.wait_for("step 3")
    os.killpg(process.pid, signal.SIGTERM)
    begun = time.monotonic()
    code, output, errors = process.end(timeout=60)
    assert code == 143, errors[-3000:]
    assert max(steps(output), default=3) <= 6
    assert find_damage(find_latest(tmp_path)) is None
    assert time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


def test_data_workers_end_with_a_process_that_was_killed(tmp_path, monkeypatch):
    """Also those with a batch that the pipe to the dead process has no room for."""
    monkeypatch.setattr(signals, "ORPHAN_SECONDS", 0.5)
    marks = {"all": {"note": "x" * 200_000, "forward_seconds": 0.2}}
    process = training.start(tmp_path, epochs=3, marks=marks, workers=2)
    process.wait_for("step 1")
    process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    process.end(timeout=30)  # its output ends with the last worker
    assert time.monotonic() - begun < 20


def test_all_ranks_end_after_the_same_iteration_where_one_gets_the_signal(tmp_path):
    ranks = training.start_ranks(tmp_path, epochs=50, marks=SLOW)
    for rank in ranks:
        rank.wait_for("step 3")
    ranks[1].send_signal(signal.SIGTERM)
    (code, output, errors), (other_code, other_output, other_errors) = [rank.end() for rank in ranks]
    assert (code, other_code) == (143, 143), errors[-2000:] + other_errors[-2000:]
    assert steps(output)[-1] == steps(other_output)[-1]
    assert [path.name for path in tmp_path.glob("iter_*.pth")] == [f"iter_{steps(output)[-1]}.pth"]
    assert find_damage(find_latest(tmp_path)) is None
    assert "go on with" in errors.strip().splitlines()[-1]
    assert "go on with" not in other_errors


def test_a_signal_in_a_validation_ends_it_with_the_state_before_it(tmp_path, uninterrupted):
    # EMA puts its averages into the model while it validates; the checkpoint must hold the two as ever.
    ema = dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.5)
    hooks = [ema, dict(type="SignalHook")]
    options = dict(epochs=2, interval=10, val_marks={"all": {"seconds": 0.05}})
    process = training.start(tmp_path / "cut", hooks=hooks, **options)
    process.wait_for("val 2")
    process.send_signal(signal.SIGTERM)
    code, output, errors = process.end()
    assert code == 143, errors[-3000:]
    assert "val 8" not in output
    assert find_latest(tmp_path / "cut").name == "iter_8.pth"

    training.build(tmp_path / "whole", hooks=[ema], **dict(options, epochs=1)).train()
    cut, whole = (safe_load(find_latest(tmp_path / name)) for name in ("cut", "whole"))
    for part in ("state_dict", "ema_state_dict"):
        assert_equal_weights(cut[part], whole[part])
    assert not torch.equal(cut["state_dict"]["head.weight"], cut["ema_state_dict"]["module.head.weight"])

    training.build(tmp_path / "cut", hooks=[ema], resume=True, **options).train()
    training.build(tmp_path / "through", hooks=[ema], **options).train()
    assert_equal_weights(weights(tmp_path / "cut"), weights(tmp_path / "through"))


class Formatting(training.Hook):
    """Ctrl-C twice where any exception is turned into another, as mmengine does around yapf when it saves."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        try:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise SyntaxError from None


class Signal(training.Hook):
    """Sends this process a signal after a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("kind", [Runner, FlexibleRunner])
def test_gradients_that_wait_for_their_step_are_not_lost(tmp_path, kind):
    wrapper = dict(accumulative_counts=4)
    runner = training.build(tmp_path, hooks=[Signal(2), dict(type="SignalHook")], wrapper=wrapper, kind=kind)
    with pytest.raises(TrainingStopped) as stopped:
        runner.train()
    assert stopped.value.code == 143
    assert find_latest(tmp_path).name == "iter_4.pth"
    assert safe_load(tmp_path / "iter_4.pth")["meta"]["iter"] == 4


def test_a_second_ctrl_c_is_none_the_less_one_for_a_library_that_catches_it(tmp_path):
    runner = training.build(tmp_path, hooks=[dict(type="SignalHook"), Formatting()])
    with pytest.raises(KeyboardInterrupt):
        runner.train()


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path):
    runner = training.build(tmp_path, hooks=[Signal(8), dict(type="SignalHook")], val_marks={})
    with pytest.raises(TrainingStopped):
        runner.train()
    # Step 8 ends the epoch, but it is the signal hook's turn before the epoch's checkpoint.
    assert find_latest(tmp_path).name == "iter_8.pth"

    class InValidation(training.Hook):
        def before_val(self, runner):
            signal.raise_signal(signal.SIGTERM)

    other = training.build(tmp_path / "other", hooks=[InValidation(), dict(type="SignalHook")], val_marks={})
    with pytest.raises(TrainingStopped):
        other.train()
    assert [path.name for path in (tmp_path / "other").glob("*.pth")] == ["epoch_1.pth"]


def test_nor_is_one_of_the_same_iteration(tmp_path, monkeypatch):
    hook = dict(checkpoint=dict(type="AtomicCheckpointHook", by_epoch=False, interval=2))
    written, write = [], AtomicCheckpointHook._write

    def note(self, runner, name, *arguments, **options):
        written.append(name)
        write(self, runner, name, *arguments, **options)

    monkeypatch.setattr(AtomicCheckpointHook, "_write", note)
    runner = training.build(tmp_path, hooks=[Signal(4), dict(type="SignalHook")], default_hooks=hook)
    with pytest.raises(TrainingStopped):
        runner.train()
    assert written == ["iter_2.pth", "iter_4.pth"]


def test_without_our_checkpoint_hook_it_saves_too(tmp_path):
    hooks = [Signal(3), dict(type="SignalHook")]
    options = dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook")))
    runner = training.build(tmp_path, hooks=hooks, train_cfg=dict(by_epoch=True, max_epochs=2), **options)
    with pytest.raises(TrainingStopped):
        runner.train()
    assert (tmp_path / "last_checkpoint").read_text() == "iter_3.pth"
    saved = safe_load(tmp_path / "iter_3.pth")
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (0, 3)


def test_handlers_are_as_before_when_the_training_is_over(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)]
    for work_dir, hooks in (("done", []), ("stopped", [Signal(3)])):
        runner = training.build(tmp_path / work_dir, hooks=[*hooks, dict(type="SignalHook")])
        try:
            runner.train()
        except TrainingStopped:
            assert hooks
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)] == before
