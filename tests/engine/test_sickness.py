"""NaN and its relatives, put into trainings: they stop or skip with weights unharmed and the images named."""

import errno
import json
import logging
import re
from pathlib import Path

import cv2
import pytest
import torch
import watched_training as training
from mmengine.runner import FlexibleRunner, Runner

from hybrid_dense import cli
from hybrid_dense.engine.batch_contents import describe_images, image_paths, write_pictures
from hybrid_dense.engine.checkpoint import safe_load
from hybrid_dense.engine.hooks import SicknessHook
from hybrid_dense.engine.stop import TrainingStopped

NAN = {"6": {"nan": True}}  # in batch 4 of 8


def hook(**options):
    return dict(type="SicknessHook", **options)


def run_until_stopped(runner):
    with pytest.raises(TrainingStopped) as stopped:
        runner.train()
    assert stopped.value.code == 3
    return str(stopped.value)


def state_of(runner):
    return runner.model.state_dict(), runner.optim_wrapper.optimizer.state_dict()


def assert_same(one, two):
    (left, structure), (right, other) = (torch.utils._pytree.tree_flatten(part) for part in (one, two))
    assert structure == other
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The training stopped in good health after the three batches before the bad one."""
    work_dir = tmp_path_factory.mktemp("healthy")

    class Stop(training.Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 2:
                raise TrainingStopped(0, "")

    runner = training.build(work_dir, hooks=[Stop()])
    with pytest.raises(TrainingStopped):
        runner.train()
    return state_of(runner)


@pytest.mark.parametrize("kind", [Runner, FlexibleRunner])
def test_it_stops_names_the_images_and_harms_nothing(tmp_path, healthy, kind):
    runner = training.build(tmp_path, marks=NAN, hooks=[hook()], kind=kind)
    message = run_until_stopped(runner)
    folder = tmp_path / "sick/iter_4"
    assert message.startswith(
        f"loss_cls, loss_bbox are not finite at iteration 4; images: images/6.jpg, images/7.jpg; written to {folder}; "
    )
    assert re.search(rf"--resume {folder}/state\.pth --on-nonfinite skip$", message)
    assert "\n" not in message
    assert_same(state_of(runner), healthy)

    saved = safe_load(folder / "state.pth")
    assert_same(dict(saved["state_dict"]), dict(healthy[0]))
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (0, 3)

    batch = json.loads((folder / "batch.json").read_text(), parse_constant=pytest.fail)
    assert batch["iteration"] == 4
    assert batch["gradient_norm"] == "nan"
    assert batch["learning_rates"]["lr"] == [pytest.approx(0.004)]
    [rank] = batch["ranks"]
    assert rank["rank"] == 0
    [part] = rank["batches"]
    assert part["losses"]["loss_bbox"] == "nan"
    assert part["images"] == [
        dict(path="images/6.jpg", id=6, shape=[3, 4, 4], finite=False),
        dict(path="images/7.jpg", id=7, shape=[3, 4, 4], finite=True),
    ]
    assert sorted(path.name for path in folder.glob("*.png")) == ["rank0_iter4_image0.png", "rank0_iter4_image1.png"]


def test_a_full_disk_does_not_hide_what_has_happened(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hybrid_dense.engine.files.put_in_place", fail)
    message = run_until_stopped(training.build(tmp_path, marks=NAN, hooks=[hook()]))
    folder = tmp_path / "sick/iter_4"
    assert message.startswith("loss_cls, loss_bbox are not finite at iteration 4; images: images/6.jpg, images/7.jpg; ")
    assert f"{folder} could not be written: [Errno 28] No space left on device" in message
    assert message.endswith("--resume auto --on-nonfinite skip")
    assert not list(folder.glob(".*"))


def test_what_it_saved_meets_the_same_batch_again(tmp_path):
    run_until_stopped(training.build(tmp_path, marks=NAN, hooks=[hook()]))
    state = str(tmp_path / "sick/iter_4/state.pth")
    again = run_until_stopped(
        training.build(tmp_path / "again", marks=NAN, hooks=[hook()], resume=True, load_from=state)
    )
    assert "at iteration 4; images: images/6.jpg, images/7.jpg" in again
    skipping = [hook(on_nonfinite="skip")]
    runner = training.build(tmp_path / "on", marks=NAN, hooks=skipping, resume=True, load_from=state, epochs=1)
    runner.train()
    assert runner.iter == 8


def test_so_it_does_in_the_first_iteration_of_a_training_without_a_seed(tmp_path):
    def train(name, **options):
        sampler = dict(type="DefaultSampler", shuffle=True)
        images = training.Images({"all": {"nan": True}})
        loader = dict(dataset=images, batch_size=2, num_workers=0, sampler=sampler, collate_fn=training.pseudo_collate)
        options |= dict(hooks=[hook()], train_dataloader=loader, randomness=dict(seed=None))
        runner = training.build(tmp_path / name, **options)
        return re.search("at iteration 1; images: (.*?);", run_until_stopped(runner))[1]

    first = train("first")
    state = str(tmp_path / "first/sick/iter_1/state.pth")
    assert [train(f"again{number}", resume=True, load_from=state) for number in range(3)] == [first] * 3


def test_a_resumed_training_has_not_forgotten_its_skips(tmp_path):
    marks = {"all": {"factor": float("inf")}}
    options = dict(marks=marks, interval=2, hooks=[hook(on_nonfinite="skip", max_skips=5)])
    options["train_cfg"] = dict(type="ExactIterLoop", max_iters=4)
    checkpoint = dict(checkpoint=dict(type="AtomicCheckpointHook", interval=2, by_epoch=False))
    training.build(tmp_path, default_hooks=checkpoint, **options).train()
    options["train_cfg"] = dict(type="ExactIterLoop", max_iters=9)
    resumed = training.build(tmp_path, default_hooks=checkpoint, resume=True, **options)
    assert "6 steps could not be taken, more than max_skips=5" in run_until_stopped(resumed)


def test_skipping_goes_on_and_the_log_stays_finite(tmp_path):
    runner = training.build(tmp_path, marks=NAN, hooks=[hook(on_nonfinite="skip")], epochs=2)
    runner.train()
    assert runner.iter == 16
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()
    assert sorted(path.name for path in (tmp_path / "sick").iterdir()) == ["iter_12", "iter_4"]
    assert (tmp_path / "sick/iter_4/state.pth").is_file()
    assert (tmp_path / "sick/iter_12/batch.json").is_file()
    assert not (tmp_path / "sick/iter_12/state.pth").exists()
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "images/6.jpg, images/7.jpg; written to" in log
    assert "skipped (2 of at most 10)" in log
    # Only the bad steps are missing.
    assert runner.optim_wrapper.optimizer.state_dict()["state"][0]["step"] == 14


def test_too_many_skips_stop_all_the_same(tmp_path):
    marks = {"all": {"factor": float("inf")}}
    runner = training.build(tmp_path, marks=marks, hooks=[hook(on_nonfinite="skip", max_skips=2)])
    message = run_until_stopped(runner)
    assert message.startswith("loss_cls is not finite at iteration 3; images: images/4.jpg")
    assert message.endswith("3 steps could not be taken, more than max_skips=2")


def test_gradients_alone_are_named_by_their_parameters(tmp_path, healthy):
    runner = training.build(tmp_path, marks={"6": {"odd": True}}, hooks=[hook()])
    message = run_until_stopped(runner)
    assert message.startswith(
        "the losses are finite, but not the gradients of 6 of 6 parameters, such as head.bias, at"
    )
    assert "images: images/6.jpg, images/7.jpg" in message
    assert_same(state_of(runner), healthy)


def test_the_bad_part_of_an_accumulated_step_is_named(tmp_path):
    runner = training.build(tmp_path, marks=NAN, hooks=[hook()], wrapper=dict(accumulative_counts=3))
    message = run_until_stopped(runner)
    assert message.startswith("loss_cls, loss_bbox are not finite at iteration 6; images: images/6.jpg, images/7.jpg;")
    batch = json.loads((tmp_path / "sick/iter_6/batch.json").read_text())
    assert [part["finite"] for part in batch["ranks"][0]["batches"]] == [False, True, True]
    assert [path.name for path in (tmp_path / "sick/iter_6").glob("*image0.png")] == ["rank0_iter4_image0.png"]
    # Before the first part of the step, that it can be met again.
    assert safe_load(tmp_path / "sick/iter_6/state.pth")["meta"]["iter"] == 3


def test_the_log_stays_finite_where_an_accumulated_part_is_bad(tmp_path):
    runner = training.build(tmp_path, marks=NAN, hooks=[hook(on_nonfinite="skip")], wrapper=dict(accumulative_counts=3))
    runner.train()
    assert torch.isfinite(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0])).all()


def test_averages_are_not_updated_with_a_step_that_was_not_taken(tmp_path):
    ema = dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.5, update_buffers=True)
    runner = training.build(tmp_path, marks=NAN, hooks=[ema, hook(on_nonfinite="skip")], epochs=1)
    runner.train()
    saved = safe_load(tmp_path / "epoch_1.pth")
    for part in ("state_dict", "ema_state_dict"):
        assert all(value.isfinite().all() for value in saved[part].values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_ranks_stop_where_one_has_the_bad_image(tmp_path, dtype):
    """Rank 1 has the odd images; 7 comes in its second batch."""
    marks = {"7": {"nan": True}}
    ranks = training.start_ranks(tmp_path, epochs=2, marks_of_rank_1=marks, wrapper=dict(dtype=dtype))
    results = [rank.end() for rank in ranks]
    assert [code for code, _, _ in results] == [3, 3], results
    (_, output, errors), (_, other_output, other_errors) = results
    assert "step 1\n" in output and "step 1\n" in other_output
    assert "step 2" not in output + other_output
    last = errors.strip().splitlines()[-1]
    assert last.startswith(
        "hybrid-dense: loss_cls, loss_bbox are not finite at iteration 2; images: images/5.jpg, images/7"
    )
    assert "images/4.jpg" not in last
    assert "hybrid-dense: loss" not in other_errors
    folder = tmp_path / "sick/iter_2"
    batch = json.loads((folder / "batch.json").read_text())
    finite = {rank["rank"]: rank["batches"][0]["finite"] for rank in batch["ranks"]}
    assert finite == {0: True, 1: False}
    assert {path.name for path in folder.glob("*.png")} == {"rank1_iter2_image0.png", "rank1_iter2_image1.png"}
    assert all(value.isfinite().all() for value in safe_load(folder / "state.pth")["state_dict"].values())


def test_another_optim_wrapper_stops_one_iteration_later(tmp_path):
    plain = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01))
    runner = training.build(tmp_path, marks=NAN, hooks=[hook()], optim_wrapper=plain)
    message = run_until_stopped(runner)
    assert message.startswith(
        "the loss is nan at iteration 4; images: images/6.jpg, images/7.jpg; the weights may have"
    )
    with pytest.raises(ValueError, match="needs optim_wrapper.type='GuardedOptimWrapper', this one is OptimWrapper"):
        skipping = [hook(on_nonfinite="skip")]
        training.build(tmp_path / "skip", hooks=skipping, optim_wrapper=plain).train()


def test_the_real_detector_stops_too(tmp_path, scenes, monkeypatch, capsys):
    """Pixels divided by a deviation of 0, in the demo's Mask R-CNN, through the command."""
    monkeypatch.chdir(tmp_path)
    root = [f"{name}_dataloader.dataset.data_root={scenes}/" for name in ("train", "val")]
    options = [*root, "model.data_preprocessor.std=[0,0,0]", "train_dataloader.num_workers=0"]
    options += ["train_dataloader.persistent_workers=False", "train_dataloader.batch_size=2", "train_cfg.val_begin=100"]
    options += [f"val_evaluator.ann_file={scenes}/annotations/instances_val.json"]
    config = Path(__file__).parents[2] / "configs/demo.py"
    command = ["train", str(config), "--work-dir", "out", "--epochs", "1", "--cfg-options", *options]
    code = cli.main(command)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 3, line
    assert line.startswith(
        "hybrid-dense: loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox, loss_mask are not finite at"
    )
    assert re.search(
        rf"images: {scenes}/train/\d+\.jpg, {scenes}/train/\d+\.jpg; written to {tmp_path}/out/sick/iter_1; ", line
    )
    saved = safe_load("out/sick/iter_1/state.pth")["state_dict"]
    assert all(value.isfinite().all() for value in saved.values())
    batch = json.loads(Path("out/sick/iter_1/batch.json").read_text())
    for index, image in enumerate(batch["ranks"][0]["batches"][0]["images"]):
        picture = cv2.imread(f"out/sick/iter_1/rank0_iter1_image{index}.png").astype(int)
        original = cv2.imread(image["path"]).astype(int)
        flips = [original[::v, ::h] for v in (1, -1) for h in (1, -1)]
        assert min(abs(picture - flip).max() for flip in flips) == 0
    # What the line says to do, with all images as bad.
    assert cli.main([*command, "--resume", "out/sick/iter_1/state.pth", "--on-nonfinite", "skip"]) == 0
    assert sorted(path.name for path in Path("out/sick").iterdir()) == ["iter_1", "iter_2", "iter_3", "iter_4"]


def test_overflows_of_float16_are_no_sickness_until_there_are_too_many(tmp_path):
    wrapper = dict(dtype="float16", loss_scale=2.0**125)
    runner = training.build(tmp_path / "some", hooks=[hook()], wrapper=wrapper, epochs=1)
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**125
    assert not (tmp_path / "some/sick").exists()
    marks = {"all": {"factor": 1e17}}
    wrapper = dict(dtype="float16", loss_scale=2.0**100)
    runner = training.build(tmp_path / "many", marks=marks, hooks=[hook()], wrapper=wrapper, epochs=10)
    assert run_until_stopped(runner).startswith("float16 has overflowed in 50 steps in a row at iteration 50; images: ")


def test_a_spike_is_reported_once_with_its_images(tmp_path, caplog):
    marks = {"10": {"factor": 500}}
    plain = dict(type="GuardedOptimWrapper", optimizer=dict(type="SGD", lr=0.0))
    runner = training.build(tmp_path, marks=marks, hooks=[hook()], epochs=15, optim_wrapper=plain, param_scheduler=None)
    with caplog.at_level(logging.WARNING):
        runner.train()
    log = next(tmp_path.glob("*/*.log")).read_text()
    spikes = re.findall(r"loss (\S+) at iteration (\d+) is (\S+) times the median .*; images: (.*)", log)
    # Every eighth step is one. The first is after 50 losses, the next 100 later.
    assert [(int(iteration), images) for _, iteration, _, images in spikes] == [(54, "images/10.jpg, images/11.jpg")]
    assert float(spikes[0][2]) > 5
    quiet = training.build(
        tmp_path / "quiet", marks=marks, hooks=[hook(spike=None)], epochs=8, optim_wrapper=plain, param_scheduler=None
    )
    quiet.train()
    assert "times the median" not in next((tmp_path / "quiet").glob("*/*.log")).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on_nonfinite="ignore"), "on_nonfinite='ignore'; use 'stop' or 'skip'"),
        (dict(spike=0.5), "spike=0.5 would report every loss"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SicknessHook(**options)


def test_pictures_are_what_the_network_was_about_to_see(tmp_path):
    bytes_ = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    normalised = (bytes_.float() - 30) / 20
    normalised[0, 0, 0] = torch.nan
    written = write_pictures(dict(inputs=[bytes_, normalised, torch.ones(7)]), tmp_path, "image")
    assert [path.name for path in written] == ["image0.png", "image1.png"]
    assert (cv2.imread(str(written[0])) == bytes_.permute(1, 2, 0).numpy()).all()
    stretched = cv2.imread(str(written[1]))
    assert (stretched.min(), stretched.max(), stretched[0, 0, 0]) == (0, 255, 0)


def test_images_are_found_in_batches_of_every_form():
    sample = training.BaseDataElement(metainfo=dict(img_path=Path("a.jpg"), img_id=3))
    pair = dict(inputs=torch.ones(2, 3, 4, 4), data_samples=[sample, training.BaseDataElement()])
    assert describe_images(pair) == [
        dict(path="a.jpg", id=3, shape=[3, 4, 4], finite=True),
        dict(shape=[3, 4, 4], finite=True),
    ]
    several = dict(inputs=dict(sup=[torch.ones(3, 4, 4)]), data_samples=dict(sup=[sample]))
    assert image_paths(several) == image_paths([pair]) == ["a.jpg"]
    assert image_paths(dict(inputs=[torch.ones(1)])) == image_paths(None) == []
