"""AtomicCheckpointHook in real, minuscule runs of mmengine's runners."""

import errno
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner
from toy_training import STEPS, Scores, build, checkpoints, train

import hybrid_dense.engine.hooks.checkpoints as module
from hybrid_dense.engine import files, latest
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.equip import equip
from hybrid_dense.engine.hooks import AtomicCheckpointHook
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped

both_runners = pytest.mark.parametrize("flexible", [False, True], ids=["Runner", "FlexibleRunner"])


class Killed(BaseException):
    pass


class At(Hook):
    """Call ``action(runner)`` after this many iterations of the training."""

    priority = "LOWEST"

    def __init__(self, iteration: int, action):
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action(runner)


def kill(runner):
    raise Killed


def hook_of(runner) -> AtomicCheckpointHook:
    return next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))


def save_now(runner):
    hook_of(runner).save_now(runner)


def weights(runner) -> dict:
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def assert_equal(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What happens to checkpoints on the disk, in order."""
    happened = []

    def recorded(name, label):
        plain = getattr(files, name)

        def call(*paths):
            plain(*paths)
            happened.append(f"{label} {Path(paths[-1]).name}")

        monkeypatch.setattr(files, name, call)

    recorded("put_in_place", "write")
    recorded("remove", "remove")
    plain_note = latest.note_latest
    monkeypatch.setattr(
        latest, "note_latest", lambda work_dir, path: (plain_note(work_dir, path), happened.append(f"note {path.name}"))
    )
    return happened


@pytest.fixture
def fail_at(monkeypatch):
    """Call it with n, and the n-th next checkpoint finds the disk full when half of it is written."""
    left = [-1]
    plain = module.LocalBackend.put

    def put(self, content, path):
        left[0] -= 1
        if left[0] == 0:
            plain(self, content[: len(content) // 2], path)
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, content, path)

    monkeypatch.setattr(module.LocalBackend, "put", put)
    return lambda number: left.__setitem__(0, number)


# --- order ------------------------------------------------------------------------------------------------------------


@both_runners
def test_it_writes_first_and_prunes_then(tmp_path, events, flexible):
    train(tmp_path, epochs=3, flexible=flexible, checkpoint=dict(max_keep_ckpts=1))
    assert events == [
        *("write epoch_1.pth", "note epoch_1.pth"),
        *("write epoch_2.pth", "note epoch_2.pth", "remove epoch_1.pth"),
        *("write epoch_3.pth", "note epoch_3.pth", "remove epoch_2.pth"),
    ]
    assert checkpoints(tmp_path) == ["epoch_3.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_3.pth"
    assert [path.name for path in tmp_path.glob("*.sha256")] == ["epoch_3.pth.sha256"]


@both_runners
def test_the_old_best_goes_when_the_new_one_is_there(tmp_path, events, flexible):
    train(tmp_path, 3, flexible, Scores((0.1, 0.3, 0.2)), checkpoint=dict(max_keep_ckpts=1, save_best="auto"))
    # The last one is written anew with the new best score in it, so that a resumed training knows of it.
    assert events == [
        *("write epoch_1.pth", "note epoch_1.pth"),
        *("write best_acc_epoch_1.pth", "write epoch_1.pth", "note epoch_1.pth"),
        *("write epoch_2.pth", "note epoch_2.pth", "remove epoch_1.pth"),
        *("write best_acc_epoch_2.pth", "write epoch_2.pth", "note epoch_2.pth", "remove best_acc_epoch_1.pth"),
        *("write epoch_3.pth", "note epoch_3.pth", "remove epoch_2.pth"),
    ]
    assert checkpoints(tmp_path) == ["best_acc_epoch_2.pth", "epoch_3.pth", "last_checkpoint"]


def test_several_best_ones(tmp_path):
    scores = Scores((0.1, 0.3, 0.2), keys=("acc", "box/mAP"))
    options = dict(save_best=["acc", "box/mAP"], rule="greater")
    train(tmp_path, 3, scores=scores, checkpoint=options)
    assert [n for n in checkpoints(tmp_path) if "best" in n] == ["best_acc_epoch_2.pth", "best_box_mAP_epoch_2.pth"]


def test_lower_may_be_better(tmp_path):
    train(tmp_path, 3, scores=Scores((0.2, 0.1, 0.3), keys=("loss",)), checkpoint=dict(save_best="loss"))
    assert [name for name in checkpoints(tmp_path) if "best" in name] == ["best_loss_epoch_2.pth"]


def test_a_metric_that_is_missing_or_no_number_saves_no_best(tmp_path, caplog):
    scores = Scores((0.1, float("nan"), 0.05))
    runner = train(tmp_path, 3, scores=scores, checkpoint=dict(save_best=["acc", "other"], rule="greater"))
    assert [name for name in checkpoints(tmp_path) if "best" in name] == ["best_acc_epoch_1.pth"]
    log = Path(runner.log_dir, f"{runner.timestamp}.log").read_text()
    assert "no other among the metrics acc" in log


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
def test_a_full_disk_stops_the_run_with_a_line_and_leaves_what_was_there(tmp_path, fail_at, failing):
    """Whichever write fails, regular, best or repeated: all that was whole stays, and the training can go on."""
    options = dict(max_keep_ckpts=1, save_best="auto")
    train(tmp_path, 1, scores=Scores(), checkpoint=options, ballast=2**18)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    assert sorted(before) == ["best_acc_epoch_1.pth", "epoch_1.pth"]
    fail_at(failing)
    again = build(tmp_path, 3, scores=Scores((0.2, 0.3)), checkpoint=options, ballast=2**18, resume=True)
    with pytest.raises(TrainingStopped) as stop:
        again.train()
    assert stop.value.code == WRITE_FAILED != 0
    message = stop.value.message
    assert "\n" not in message and str(tmp_path) in message and "about 1.0 MiB needed" in message
    assert "MiB free" in message and message.endswith("--resume auto")
    assert message in Path(again.log_dir, f"{again.timestamp}.log").read_text()
    assert not list(tmp_path.glob(".*")), "unfinished files stay"
    there = {path.name for path in tmp_path.glob("*.pth")}
    assert all(find_damage(tmp_path / name) is None for name in there)
    # Nothing has gone whose successor is not there, and what is there was not touched.
    assert len([name for name in there if name.startswith("epoch")]) == 1
    assert len([name for name in there if name.startswith("best")]) in (1, 2)
    assert all((tmp_path / name).read_bytes() == before[name] for name in before.keys() & there)
    fail_at(0)
    last = train(tmp_path, 3, scores=Scores((0.4, 0.5, 0.6)), checkpoint=options, ballast=2**18, resume=True)
    assert_equal(weights(last), weights(train(tmp_path / "straight", 3, ballast=2**18)))


def test_another_error_in_saving_is_no_full_disk(tmp_path):
    class Unpicklable(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            checkpoint["bad"] = lambda: None

    with pytest.raises(Exception, match="pickle"):
        train(tmp_path, 1, hooks=[Unpicklable()])
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.pth"))


def test_killed_at_any_change_of_the_disk_it_resumes_and_nothing_older_is_lost(tmp_path, monkeypatch):
    """The process "dies" before the n-th flush, rename or removal of the second epoch's saves, for every n."""
    options = dict(max_keep_ckpts=1, save_best="auto")
    start, straight = tmp_path / "start", train(tmp_path / "straight", 3, scores=Scores(), checkpoint=options)
    train(start, 1, scores=Scores((0.1,)), checkpoint=options)
    state = dict(left=-1)

    def dying(change):
        def call(*args, **keywords):
            state["left"] -= 1
            if state["left"] == -1:
                raise Killed
            return change(*args, **keywords)

        return call

    for owner, name in ((files.os, "replace"), (files.os, "fsync"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    found = []
    for changes in range(200):
        state["left"] = -1
        work_dir = tmp_path / f"run{changes}"
        shutil.copytree(start, work_dir)
        arm = At(2 * STEPS, lambda runner, changes=changes: state.update(left=changes))
        runner = build(work_dir, 2, scores=Scores((0.2,)), checkpoint=options, hooks=[arm], resume=True)
        try:
            runner.train()
            break
        except Killed:
            state["left"] = -1
        latest = find_latest(work_dir)
        found.append(latest.name)
        assert latest.name in ("epoch_1.pth", "epoch_2.pth"), f"killed before change {changes}"
        best = list(work_dir.glob("best_*.pth"))
        assert best and all(find_damage(path) is None for path in best)
        if changes % 4 == 0:  # to the end is slow
            resumed = train(work_dir, 3, scores=Scores((0.2, 0.3)), checkpoint=options, resume=True)
            assert_equal(weights(resumed), weights(straight))
            assert not list(work_dir.glob(".*"))
            assert [name for name in checkpoints(work_dir) if name.startswith("epoch")] == ["epoch_3.pth"]
        shutil.rmtree(work_dir)
    assert changes > 20 and found[0] == "epoch_1.pth" and found[-1] == "epoch_2.pth"


# --- resuming ---------------------------------------------------------------------------------------------------------


@both_runners
def test_n_and_n_epochs_are_2n(tmp_path, flexible):
    options = dict(flexible=flexible, checkpoint=dict(max_keep_ckpts=2, save_best="auto"))
    straight = train(tmp_path / "straight", 4, scores=Scores((0.1, 0.4, 0.3, 0.2)), **options)
    train(tmp_path / "halves", 2, scores=Scores((0.1, 0.4)), **options)
    resumed = train(tmp_path / "halves", 4, scores=Scores((0.3, 0.2)), resume=True, **options)
    assert_equal(weights(resumed), weights(straight))
    assert resumed.epoch == 4 and resumed.iter == 4 * STEPS
    names = ["best_acc_epoch_2.pth", "epoch_3.pth", "epoch_4.pth", "last_checkpoint"]
    assert checkpoints(tmp_path / "straight") == checkpoints(tmp_path / "halves") == names
    for name in names[:-1]:
        meta, other = (safe_load(tmp_path / run / name)["meta"] for run in ("straight", "halves"))
        assert (meta["epoch"], meta["iter"]) == (other["epoch"], other["iter"])
    assert (meta["epoch"], meta["iter"]) == (4, 4 * STEPS)


@both_runners
def test_after_a_move_the_right_files_are_pruned(tmp_path, flexible):
    options = dict(flexible=flexible, checkpoint=dict(max_keep_ckpts=1, save_best="auto"))
    train(tmp_path / "old", 2, scores=Scores((0.1, 0.2)), **options)
    (tmp_path / "old").rename(tmp_path / "new")
    train(tmp_path / "old", 1, scores=Scores((0.1,)), **options)  # another training, where the first one was
    before = checkpoints(tmp_path / "old")
    train(tmp_path / "new", 3, scores=Scores((0.3,)), resume=True, **options)
    assert checkpoints(tmp_path / "new") == ["best_acc_epoch_3.pth", "epoch_3.pth", "last_checkpoint"]
    assert checkpoints(tmp_path / "old") == before
    info = safe_load(tmp_path / "new" / "epoch_3.pth")["message_hub"]["runtime_info"]
    assert info["last_ckpt"] == str(tmp_path / "new" / "epoch_3.pth")
    assert info["best_ckpt"] == str(tmp_path / "new" / "best_acc_epoch_3.pth")


def test_after_a_move_the_best_one_is_published_from_where_it_is(tmp_path):
    options = dict(save_best="auto", published_keys=["meta", "state_dict"])
    with pytest.raises(Killed):
        train(tmp_path / "old", 3, scores=Scores((0.5, 0.4)), checkpoint=options, hooks=[At(2 * STEPS + 1, kill)])
    (tmp_path / "old").rename(tmp_path / "new")
    runner = train(tmp_path / "new", 3, scores=Scores((0.3,)), checkpoint=options, resume=True)
    assert len(list((tmp_path / "new").glob("best_acc_epoch_1-*.pth"))) == 1
    assert runner.message_hub.get_info("best_ckpt") == str(tmp_path / "new" / "best_acc_epoch_1.pth")


def test_the_folder_of_another_training_is_only_read(tmp_path):
    options = dict(save_best="auto", published_keys=["meta", "state_dict"], max_keep_ckpts=1)
    with pytest.raises(Killed):
        train(tmp_path / "other", 3, scores=Scores((0.5, 0.4)), checkpoint=options, hooks=[At(2 * STEPS + 1, kill)])
    before = {path: path.read_bytes() for path in (tmp_path / "other").iterdir() if path.is_file()}
    resumed = dict(resume=True, load_from=str(tmp_path / "other" / "epoch_2.pth"))
    train(tmp_path / "worse", 3, scores=Scores((0.3,)), checkpoint=options, **resumed)
    train(tmp_path / "better", 3, scores=Scores((0.6,)), checkpoint=options, **resumed)
    assert before == {path: path.read_bytes() for path in (tmp_path / "other").iterdir() if path.is_file()}


def test_a_checkpoint_of_mmengines_own_hook_is_understood(tmp_path):
    options = dict(max_keep_ckpts=1, save_best="auto")
    plain = dict(options, type="CheckpointHook")
    train(tmp_path / "old", 2, scores=Scores((0.1, 0.2)), checkpoint=plain)
    (tmp_path / "old").rename(tmp_path / "new")
    runner = train(tmp_path / "new", 3, scores=Scores((0.3,)), checkpoint=options, resume=True)
    assert runner.epoch == 3 and runner.iter == 3 * STEPS
    assert checkpoints(tmp_path / "new") == ["best_acc_epoch_3.pth", "epoch_3.pth", "last_checkpoint"]


def test_the_best_score_survives_a_resume(tmp_path):
    options = dict(checkpoint=dict(save_best="acc"))
    train(tmp_path, 1, scores=Scores((0.9,)), **options)
    train(tmp_path, 2, scores=Scores((0.8,)), resume=True, **options)
    assert [name for name in checkpoints(tmp_path) if "best" in name] == ["best_acc_epoch_1.pth"]


@both_runners
def test_a_truncated_latest_falls_back(tmp_path, flexible):
    straight = train(tmp_path / "straight", 3, flexible)
    train(tmp_path / "run", 2, flexible)
    with (tmp_path / "run" / "epoch_2.pth").open("r+b") as file:
        file.truncate(3000)
    runner = train(tmp_path / "run", 3, flexible, resume=True)
    assert_equal(weights(runner), weights(straight))
    if not flexible:  # for which the test itself has looked, before there was a log
        log = Path(runner.log_dir, f"{runner.timestamp}.log").read_text()
        assert "WARNING" in log and "epoch_2.pth" in log and "newest good one" in log and "epoch_1.pth" in log
    assert find_damage(tmp_path / "run" / "epoch_2.pth") is None, "epoch 2 was saved again"


def test_where_there_is_nothing_it_starts_from_the_beginning_and_says_so(tmp_path):
    runner = train(tmp_path, 1, resume=True)
    log = Path(runner.log_dir, f"{runner.timestamp}.log").read_text()
    assert f"nothing to resume in {tmp_path}, starting from the beginning" in log
    assert runner.iter == STEPS


def test_stale_files_of_a_killed_run_are_removed_at_the_next_start(tmp_path):
    train(tmp_path, 1)
    stale = files.temporary_path(tmp_path / "epoch_2.pth")
    stale.write_bytes(b"half of it")
    train(tmp_path, 2, resume=True)
    assert not stale.exists() and not list(tmp_path.glob(".*"))
    assert find_damage(tmp_path / "epoch_2.pth") is None


def test_what_was_not_pruned_before_a_kill_is_pruned_by_the_resumed_run(tmp_path, monkeypatch):
    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointHook, "_remove", die)
        with pytest.raises(Killed):
            train(tmp_path, 1, checkpoint=dict(max_keep_ckpts=1))
    train(tmp_path, 2, checkpoint=dict(max_keep_ckpts=1), resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointHook, "_remove", die)
        with pytest.raises(Killed):
            train(tmp_path, 3, checkpoint=dict(max_keep_ckpts=1), resume=True)
    assert checkpoints(tmp_path) == ["epoch_2.pth", "epoch_3.pth", "last_checkpoint"]
    train(tmp_path, 4, checkpoint=dict(max_keep_ckpts=1), resume=True)
    assert checkpoints(tmp_path) == ["epoch_4.pth", "last_checkpoint"]
    assert [path.name for path in tmp_path.glob("*.sha256")] == ["epoch_4.pth.sha256"]


def test_an_own_folder_for_checkpoints(tmp_path):
    work_dir, out_dir = tmp_path / "run", tmp_path / "large_disk"
    options = dict(checkpoint=dict(out_dir=str(out_dir), max_keep_ckpts=1))
    train(work_dir, 2, **options)
    assert (work_dir / "last_checkpoint").read_text() == str(out_dir / "run" / "epoch_2.pth")
    assert train(work_dir, 3, resume=True, **options).iter == 3 * STEPS
    assert checkpoints(out_dir / "run") == ["epoch_3.pth"]
    assert checkpoints(work_dir) == ["last_checkpoint"]


def test_training_by_iterations(tmp_path):
    options = dict(
        checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=2, save_best="auto"),
        train_cfg=dict(by_epoch=False, max_iters=9, val_interval=3),
        param_scheduler=None,
        images=20,
    )
    straight = train(tmp_path / "straight", scores=Scores(), **options)
    with pytest.raises(Killed):
        train(tmp_path / "run", scores=Scores(), hooks=[At(7, kill)], **options)
    assert find_latest(tmp_path / "run").name == "iter_6.pth"
    resumed = train(tmp_path / "run", scores=Scores((0.9,)), resume=True, **options)
    names = ["best_acc_iter_9.pth", "iter_6.pth", "iter_9.pth", "last_checkpoint"]
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "straight") == names
    assert resumed.iter == straight.iter == 9


# --- at any moment ----------------------------------------------------------------------------------------------------


@both_runners
def test_a_checkpoint_in_the_middle_of_an_epoch(tmp_path, flexible):
    saved = []

    def stop(runner):
        saved.append(hook_of(runner).save_now(runner))
        raise TrainingStopped(143, "SIGTERM")

    train(tmp_path, 1, flexible, checkpoint=dict(max_keep_ckpts=2))
    with pytest.raises(TrainingStopped):
        train(tmp_path, 3, flexible, checkpoint=dict(max_keep_ckpts=2), hooks=[At(STEPS + 2, stop)], resume=True)
    assert saved == [tmp_path / f"iter_{STEPS + 2}.pth"] == [find_latest(tmp_path)]
    assert find_damage(saved[0]) is None
    meta = safe_load(saved[0])["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, STEPS + 2)
    assert "optimizer" in safe_load(saved[0]) and "param_schedulers" in safe_load(saved[0])


def test_it_goes_when_a_later_one_is_there(tmp_path, events):
    hooks = [At(2, save_now), At(3, save_now)]
    train(tmp_path, 1, hooks=hooks)
    assert events == [
        *("write iter_2.pth", "note iter_2.pth"),
        *("write iter_3.pth", "note iter_3.pth", "remove iter_2.pth"),
        *("write epoch_1.pth", "note epoch_1.pth", "remove iter_3.pth"),
    ]
    assert checkpoints(tmp_path) == ["epoch_1.pth", "last_checkpoint"]


def test_it_goes_also_when_the_training_was_killed_before_it_could(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(tmp_path, 1, hooks=[At(2, lambda runner: (save_now(runner), kill(runner)))])
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointHook, "_remove", lambda self, names: kill(None))
        with pytest.raises(Killed):
            train(tmp_path, 2, resume=True)
    assert checkpoints(tmp_path) == ["epoch_1.pth", "iter_2.pth", "last_checkpoint"]
    train(tmp_path, 3, resume=True)
    assert "iter_2.pth" not in checkpoints(tmp_path)


def test_in_training_by_iterations_it_is_one_of_them(tmp_path):
    options = dict(
        checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=2),
        train_cfg=dict(by_epoch=False, max_iters=9, val_interval=3),
        param_scheduler=None,
        images=20,
    )
    with pytest.raises(Killed):
        train(tmp_path, hooks=[At(5, lambda runner: (save_now(runner), kill(runner)))], **options)
    assert checkpoints(tmp_path) == ["iter_3.pth", "iter_5.pth", "last_checkpoint"]
    train(tmp_path, resume=True, **options)
    assert checkpoints(tmp_path) == ["iter_6.pth", "iter_9.pth", "last_checkpoint"]


# --- contents ---------------------------------------------------------------------------------------------------------


class Counting(Hook):
    """A hook of one's own with memory."""

    def __init__(self):
        self.steps = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps += 1

    def state_dict(self):
        return dict(steps=self.steps)

    def load_state_dict(self, state):
        self.steps = state["steps"]


@both_runners
def test_everything_is_saved_readable_without_running_code_and_read_back(tmp_path, flexible):
    def options():
        hooks = [EarlyStoppingHook(monitor="acc", rule="greater", patience=9), Counting()]
        if not flexible:  # in a FlexibleRunner, mmengine's EMAHook cannot resume
            hooks.append(dict(type="EMAHook", momentum=0.3))
        optimizer = dict(type="AdamW", lr=0.01)
        return dict(flexible=flexible, optim_wrapper=dict(type="OptimWrapper", optimizer=optimizer), hooks=hooks)

    straight = train(tmp_path / "straight", 4, scores=Scores((0.4, 0.3, 0.2, 0.1)), **options())
    train(tmp_path / "run", 2, scores=Scores((0.4, 0.3)), **options())
    saved = safe_load(tmp_path / "run" / "epoch_2.pth")
    assert set(saved["optimizer"]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["param_schedulers"][0]["_global_step"] == 2
    assert len(saved["message_hub"]["log_scalars"]["train/loss"].data[0]) == 2 * STEPS
    if not flexible:
        assert saved["ema_state_dict"]["steps"] == 2 * STEPS
        # The averaged weights, for use, are the state_dict; those that are trained stand aside.
        trained, averaged = saved["ema_state_dict"]["module.layer.weight"], saved["state_dict"]["layer.weight"]
        assert not torch.equal(trained, averaged)
    states = saved["hybrid_dense"]["hooks"]
    assert states == dict(EarlyStoppingHook=dict(wait_count=0, best_score=0.4), Counting=dict(steps=2 * STEPS))

    resumed = train(tmp_path / "run", 4, scores=Scores((0.2, 0.1)), resume=True, **options())
    first, second = (safe_load(tmp_path / run / "epoch_4.pth") for run in ("straight", "run"))
    assert_equal(first["state_dict"], second["state_dict"])
    assert_equal(first.get("ema_state_dict", {}), second.get("ema_state_dict", {}))
    for key, value in first["optimizer"]["state"][0].items():
        assert torch.equal(value, second["optimizer"]["state"][0][key])
    assert first["param_schedulers"] == second["param_schedulers"]
    history = [list(saved["message_hub"]["log_scalars"]["train/loss"].data[0]) for saved in (first, second)]
    assert history[0] == history[1]
    assert second["hybrid_dense"]["hooks"]["Counting"] == dict(steps=4 * STEPS)
    assert_equal(weights(resumed), weights(straight))


def test_the_scale_of_the_loss_is_saved_and_read_back(tmp_path):
    options = dict(optim_wrapper=dict(type="GuardedOptimWrapper", dtype="float16", optimizer=dict(type="SGD", lr=0.1)))
    train(tmp_path, 1, **options)
    saved = safe_load(tmp_path / "epoch_1.pth")["optimizer"]["loss_scaler"]
    assert saved["scale"] > 0 and saved["_growth_tracker"] == STEPS
    resumed = train(tmp_path, 2, resume=True, **options)
    assert resumed.optim_wrapper.state_dict()["loss_scaler"]["_growth_tracker"] == 2 * STEPS


def test_hooks_of_weights_to_start_from_are_not_those_of_a_training_to_resume(tmp_path):
    train(tmp_path / "first", 1, hooks=[Counting()])
    counting = Counting()
    train(tmp_path / "second", 1, hooks=[counting], load_from=str(tmp_path / "first" / "epoch_1.pth"))
    assert counting.steps == STEPS


def test_early_stopping_goes_on_counting(tmp_path):
    """Mmengine forgets how long it has waited, and a training that is resumed often enough never stops early."""

    def early():
        return EarlyStoppingHook(monitor="acc", rule="greater", patience=3)

    train(tmp_path, 3, scores=Scores((0.5, 0.4, 0.4)), hooks=[early()])
    runner = train(tmp_path, 9, scores=Scores((0.4,) * 6), hooks=[early()], resume=True)
    # Saved before the validation of epoch 3: it has waited once, and stops after the second validation from here.
    assert runner.epoch == 5


def test_a_best_one_that_never_came_is_not_published(tmp_path):
    options = dict(save_best=["acc", "other"], rule="greater", published_keys=["meta", "state_dict"])
    train(tmp_path, 2, scores=Scores(), checkpoint=options)
    published = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("*-*.pth"))
    assert published == ["best_acc_epoch_2", "epoch_2"]


def test_published_ones_are_named_by_their_own_hash(tmp_path):
    options = dict(save_best="auto", published_keys=["meta", "state_dict"])
    train(tmp_path, 2, scores=Scores(), checkpoint=options)
    published = sorted(path for path in tmp_path.glob("*-*.pth"))
    assert [path.name.rpartition("-")[0] for path in published] == ["best_acc_epoch_2", "epoch_2"]
    for path in published:
        assert path.stem.rpartition("-")[2] == files.sha256(path)[:8] and find_damage(path) is None
        assert set(safe_load(path)) == {"meta", "state_dict"}


# --- in configs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)))])
def test_every_config_gets_it(given):
    cfg = equip(Config(given))
    assert cfg.default_hooks.checkpoint == dict(type="AtomicCheckpointHook", interval=1)


def test_a_config_that_wants_no_checkpoints_gets_none():
    assert equip(Config(dict(default_hooks=dict(checkpoint=None)))).default_hooks.checkpoint is None


def test_it_is_built_from_a_config(tmp_path):
    runner = build(tmp_path)
    assert isinstance(runner, Runner) and isinstance(hook_of(runner), AtomicCheckpointHook)
