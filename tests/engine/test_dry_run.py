"""A dry run takes the first iterations of the training that is configured, and says how long all of it would be."""

import time

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from toy_training import BATCH, IMAGES, STEPS, Rows, Scores, build, train

from hybrid_dense.engine.dry_run import ITERATIONS, DryRun, count_validations, dry_run_config, take_first_iterations
from hybrid_dense.engine.equip import equip, type_name

NOTHING_SAVED = dict(logger=None, checkpoint=None)


def rehearse(folder, **options):
    """The dry run of a toy training, and the scores that its validations have not used."""
    scores = Scores()
    runner = build(folder, scores=scores, default_hooks=NOTHING_SAVED, **options)
    return take_first_iterations(runner), len(scores.scores)


@pytest.mark.parametrize("flexible", [False, True], ids=["Runner", "FlexibleRunner"])
def test_short_epochs_are_gone_through_again_without_their_validations(tmp_path, flexible):
    run, unused = rehearse(tmp_path, epochs=50, flexible=flexible)
    assert len(run.steps) == len(run.waits) == ITERATIONS > STEPS
    assert (run.iterations, run.validations) == (50 * STEPS, 50)
    assert len(run.validated) == run.validation_batches == IMAGES // BATCH
    assert unused == 8, "a whole validation was run"


def test_a_schedule_that_is_shorter_is_taken_whole(tmp_path):
    run, _ = rehearse(tmp_path, epochs=2)
    assert len(run.steps) == run.iterations == 2 * STEPS


def test_trainings_that_count_iterations(tmp_path):
    loop = dict(type="ExactIterLoop", max_iters=1000, val_interval=300)
    run, unused = rehearse(tmp_path, train_cfg=loop)
    assert (len(run.steps), run.iterations, run.validations, unused) == (ITERATIONS, 1000, 4, 8)


def test_a_training_without_validation(tmp_path):
    run = take_first_iterations(build(tmp_path, epochs=9, default_hooks=NOTHING_SAVED))
    assert (run.validated, run.validations, run.validation) == ((), 0, 0.0)


def test_a_training_that_goes_on_counts_what_is_left(tmp_path):
    train(tmp_path, epochs=2)
    goes_on = dict(resume=True, load_from=str(tmp_path / "epoch_2.pth"))
    run, _ = rehearse(tmp_path, epochs=10, **goes_on)
    assert (run.iterations, run.validations) == (8 * STEPS, 8)
    with pytest.raises(ValueError, match="nothing is left to train after iteration 8; leave --resume out"):
        rehearse(tmp_path, epochs=2, **goes_on)


class SlowRows(Rows):
    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)


def test_waiting_for_data_is_told_from_the_step(tmp_path, monkeypatch):
    quick, _ = rehearse(tmp_path, epochs=50)
    monkeypatch.setattr("toy_training.Rows", SlowRows)
    slow, _ = rehearse(tmp_path, epochs=50)
    assert slow.wait > 0.02 * BATCH > quick.wait
    assert slow.iteration - slow.wait < 0.02 * BATCH, "loading was counted as computing"


def test_the_estimate_leaves_the_first_ones_out_and_reckons_bursts_of_waiting():
    settling, late = (50.0,) * 5, (1.0, 1.0, 1.0, 9.0)
    run = DryRun(settling + late, settling + (0.0, 0.0, 0.0, 2.0), (30.0, 30.0, 2.0, 4.0), 0, 100, 2, 10)
    assert (run.counted, run.wait, run.iteration, run.validation) == (4, 0.5, 1.5, 30.0)


@pytest.mark.parametrize(
    ("length", "loop"),
    [
        (7, dict(val_interval=3)),
        (6, dict(val_interval=3, val_begin=4)),
        (8, dict(val_interval=4, dynamic_intervals=[(6, 1)])),
    ],
)
def test_validations_are_those_that_mmengine_makes(tmp_path, length, loop):
    class Count(Hook):
        done = 0

        def after_val(self, runner):
            self.done += 1

    count = Count()
    runner = build(
        tmp_path,
        scores=Scores(),
        default_hooks=NOTHING_SAVED,
        hooks=[count],
        train_cfg=dict(by_epoch=True, max_epochs=length, **loop),
    )
    runner.train()
    plan = runner.train_loop
    assert count.done == count_validations(length, plan.val_begin, plan.dynamic_milestones, plan.dynamic_intervals)


def test_nothing_that_saves_is_left_in_the_config_and_the_config_stays_as_it_was(tmp_path):
    hooks = [dict(type="EMAHook"), dict(type="AutocastHook"), dict(type="CheckpointHook", out_dir="elsewhere")]
    timer = dict(timer=dict(type="IterTimerHook"))
    shown = dict(type="Visualizer", vis_backends=[dict(type="WandbVisBackend")])
    cfg = equip(Config(dict(work_dir="mine", custom_hooks=hooks, default_hooks=timer, visualizer=shown)))
    before = cfg.pretty_text
    quiet = dry_run_config(cfg, tmp_path)
    assert [type_name(hook) for hook in quiet.custom_hooks] == ["EMAHook", "AutocastHook"]
    assert quiet.default_hooks == dict(timer=dict(type="IterTimerHook"), checkpoint=None, logger=None)
    assert quiet.visualizer == dict(type="Visualizer", vis_backends=[])
    assert quiet.work_dir == str(tmp_path) and cfg.pretty_text == before
