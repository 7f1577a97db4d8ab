"""StagedTrainingHook in real, minuscule trainings of a nano hybrid."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMFullyShardedDataParallel
from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hybrid_dense.cli.session import stretch_schedule
from hybrid_dense.engine.hooks import StagedTrainingHook

IMAGES, BATCH, EPOCHS = 8, 2, 3
STEPS = IMAGES // BATCH  # an epoch
NEW = ["fusion", "neck", "head"]
ALL = ["cnn", "vit", *NEW]


class Toy(BaseModel):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", **options))
        self.neck = nn.Sequential(nn.Conv2d(self.backbone.out_channels[-1], 8, 1), nn.BatchNorm2d(8))
        self.decode_head = nn.Conv2d(8, 2, 1)

    def forward(self, inputs, mode="tensor"):
        return dict(loss=(self.decode_head(self.neck(self.backbone(inputs)[-1])) - 1).square().mean())


class Watch(Hook):
    """Copies of the weights and statistics before every step and at the end, and the BatchNorms in training mode."""

    priority = "VERY_LOW"

    def __init__(self):
        self.states, self.modes = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append(copy.deepcopy(runner.model.state_dict()))
        norms = (pair for pair in runner.model.named_modules() if isinstance(pair[1], nn.BatchNorm2d))
        self.modes.append({name for name, norm in norms if norm.training})

    def after_train(self, runner):
        self.states.append(copy.deepcopy(runner.model.state_dict()))

    def moved(self, step):
        """The names of what a step (from 0) changed."""
        before, after = self.states[step : step + 2]
        return {name for name in before if not torch.equal(before[name], after[name])}


def images(count=IMAGES):
    return [
        dict(inputs=torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))) for index in range(count)
    ]


@pytest.fixture
def train(tmp_path):
    def start(stages, name="run", runner=Runner, model=None, hooks=(), by_epoch=True, **options):
        watch = Watch()
        arguments = dict(
            model=model or Toy(),
            work_dir=str(tmp_path / name),
            experiment_name=re.sub(r"\W", "_", f"{tmp_path.name}_{name}"),
            train_dataloader=dict(
                dataset=images(),
                batch_size=BATCH,
                sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=False),
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=EPOCHS) if by_epoch else dict(by_epoch=False, max_iters=12),
            # Momentum and weight decay that would move anything that they reach.
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.5)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=by_epoch)),
            custom_hooks=[dict(type="StagedTrainingHook", stages=stages), watch, *hooks],
        )
        run = runner(**dict(arguments, **options))
        run.train()
        return run, watch

    return start


def branches(names):
    """The parts of the model that these names are of."""
    kinds = {"backbone.cnn": "cnn", "backbone.vit": "vit", "backbone.fusions": "fusion", "decode_head": "head"}
    return {next((kind for start, kind in kinds.items() if name.startswith(start)), "neck") for name in names}


FREEZE_OLD = [dict(until_epoch=1, train=NEW), dict(train=ALL)]
FREEZE_CNN_LATER = [
    dict(until_epoch=1, train=ALL),
    dict(until_epoch=2, train=["vit", *NEW]),
    dict(train=["cnn", "head"]),
]


@pytest.mark.parametrize("runner", [Runner, FlexibleRunner])
def test_each_stage_moves_what_it_trains_and_nothing_else(train, runner):
    _, watch = train(FREEZE_CNN_LATER, runner=runner)
    stages = [set(ALL), {"vit", *NEW}, {"cnn", "head"}]
    # In the first steps the zeros that every fusion starts with hide what lies behind them.
    for step in range(2, EPOCHS * STEPS):
        assert branches(watch.moved(step)) == stages[step // STEPS], f"step {step}"


def test_frozen_weights_and_statistics_stay_bit_for_bit_although_they_had_momentum(train):
    _, watch = train(FREEZE_CNN_LATER)
    start, end = watch.states[STEPS], watch.states[2 * STEPS]
    cnn = [name for name in start if name.startswith("backbone.cnn.")]
    assert any(name.endswith("running_var") for name in cnn)
    assert any(name.endswith("num_batches_tracked") for name in cnn)
    assert [name for name in cnn if not torch.equal(start[name], end[name])] == []
    # The first stage did give the CNN momentum, and the last one moves it again.
    assert not torch.equal(watch.states[0]["backbone.cnn.conv1.weight"], start["backbone.cnn.conv1.weight"])
    assert not torch.equal(watch.states[-1]["backbone.cnn.conv1.weight"], end["backbone.cnn.conv1.weight"])
    assert not torch.equal(watch.states[-1]["backbone.cnn.bn1.running_mean"], end["backbone.cnn.bn1.running_mean"])


@pytest.mark.parametrize("by_epoch", [True, False])
def test_batch_norm_is_in_evaluation_mode_while_it_is_frozen(train, by_epoch):
    # The first stage ends in the middle of an epoch.
    _, watch = train([dict(until_iter=6, train=NEW), dict(train=ALL)], by_epoch=by_epoch)
    cnn = {f"backbone.{name}" for name, m in Toy().backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert watch.modes == [{"neck.1"}] * 6 + [{"neck.1"} | cnn] * 6


def test_what_the_model_has_frozen_stays_frozen(train):
    _, watch = train(FREEZE_OLD, model=Toy(frozen_stages=1, norm_eval=True))
    assert watch.modes == [{"neck.1"}] * EPOCHS * STEPS
    moved = set().union(*(watch.moved(step) for step in range(EPOCHS * STEPS)))
    frozen = ("backbone.cnn.conv1.", "backbone.cnn.bn1.", "backbone.cnn.layer1.")
    assert [name for name in moved if name.startswith(frozen) or ("cnn" in name and "running" in name)] == []
    assert "backbone.cnn.layer2.0.conv1.weight" in moved


def test_finer_parts_by_any_of_their_names(train):
    names = ["cnn.stages.3", "vit.segments.1", "vit.norm", "fusions.0", "neck.0", "decode_head.bias"]
    _, watch = train([dict(until_iter=8, train=names), dict(train=["head"])])
    moved = set().union(*(watch.moved(step) for step in range(8)))
    blocks = len(Toy().backbone.vit.blocks) // 4
    expected = ["backbone.cnn.layer4.", "backbone.vit.norm.", "backbone.fusions.0.", "neck.0.", "decode_head.bias"]
    expected += [f"backbone.vit.blocks.{index}." for index in range(blocks, 2 * blocks)]
    assert {name for name in expected if not any(own.startswith(name) for own in moved)} == set()
    assert {own for own in moved if not own.startswith(tuple(expected))} == set()
    assert watch.modes[0] == {
        f"backbone.{n}" for n, m in Toy().backbone.named_modules() if "layer4" in n and "bn" in n
    } | {f"backbone.{n}" for n, m in Toy().backbone.named_modules() if "layer4" in n and isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("stages", "first"),
    [
        ([dict(until=0.25, train=NEW), dict(train=ALL)], 3),
        ([dict(until_epoch=2, train=NEW), dict(train=ALL)], 8),
        ([dict(until_iter=5, train=NEW), dict(train=ALL)], 5),
        ([dict(until=0.5, train=["head"]), dict(until_iter=10, train=NEW), dict(train=ALL)], 10),
        ([dict(train=NEW)], 12),
    ],
)
def test_stages_end_where_they_say(train, stages, first):
    _, watch = train(stages)
    assert next((step for step, modes in enumerate(watch.modes) if len(modes) > 1), 12) == first


def test_a_line_in_the_log_at_each_change(train):
    run, _ = train([dict(until=0.5, train=["head"]), dict(train=ALL)])
    lines = re.findall(r"stage \d of .*", Path(run.log_dir, f"{run.timestamp}.log").read_text())
    total = sum(parameter.numel() for parameter in run.model.parameters())
    assert lines == [
        f"stage 1 of 2 from iteration 0: trains head (until=0.5), 18 of {total:,} parameters",
        f"stage 2 of 2 from iteration 6: trains cnn, vit, fusion, neck, head, {total:,} of {total:,} parameters",
    ]


# Resume ------------------------------------------------------------------------------------------------------------

WARM = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_training_is_in_the_right_stage_and_ends_equal(train, tmp_path, epoch):
    stages = [dict(until=0.5, train=NEW), dict(train=ALL)]  # the change is in the middle of the second epoch
    whole, _ = train(stages, "whole", param_scheduler=WARM)
    checkpoint = str(tmp_path / f"whole/epoch_{epoch}.pth")
    again, watch = train(stages, "again", param_scheduler=WARM, load_from=checkpoint, resume=True)
    assert len(watch.modes[0]) > 1 if epoch == 2 else len(watch.modes[0]) == 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_training_resumed_at_its_end_is_in_the_last_stage(train, tmp_path):
    train(FREEZE_OLD, "whole")
    run, watch = train(FREEZE_OLD, "again", load_from=str(tmp_path / "whole/epoch_3.pth"), resume=True)
    assert len(watch.states) == 1
    assert all(parameter.requires_grad for parameter in run.model.parameters())


# Together with others ----------------------------------------------------------------------------------------------


def test_the_moving_average_of_what_is_frozen_is_what_is_frozen(train, tmp_path):
    fresh = Toy().state_dict()
    ema = [dict(type="EMAHook", momentum=0.5)]
    whole, _ = train(FREEZE_OLD, "whole", hooks=ema)
    saved = torch.load(tmp_path / "whole/epoch_1.pth", weights_only=False)
    for weights in (saved["state_dict"], {n.removeprefix("module."): w for n, w in saved["ema_state_dict"].items()}):
        assert [n for n in fresh if n.startswith("backbone.cnn.") and not torch.equal(fresh[n], weights[n])] == []
        assert not torch.equal(fresh["decode_head.weight"], weights["decode_head.weight"])
    again, _ = train(FREEZE_OLD, "again", hooks=ema, load_from=str(tmp_path / "whole/epoch_1.pth"), resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_stage_that_begins_between_two_updates_leaves_no_gradients_behind(train):
    accumulate = dict(optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.5), accumulative_counts=4)
    # The CNN is frozen after the sixth step; the gradients of steps five and six wait for the update in the eighth.
    _, watch = train([dict(until_iter=6, train=ALL), dict(train=["head"])], optim_wrapper=accumulate)
    weights = [name for name, _ in Toy().named_parameters()]
    moved = [branches(watch.moved(step) & set(weights)) for step in range(12)]
    assert [step for step, parts in enumerate(moved) if parts] == [3, 7, 11]
    assert "cnn" in moved[3]
    assert moved[7] == moved[11] == {"head"}


def test_layer_decay_keeps_what_a_later_stage_trains(train):
    optimizer = dict(constructor="HybridLayerDecay", optimizer=dict(type="AdamW", lr=0.01), paramwise_cfg=dict(cnn=0.1))
    run, watch = train(FREEZE_OLD, optim_wrapper=optimizer)
    grouped = [parameter for group in run.optim_wrapper.param_groups for parameter in group["params"]]
    assert len(grouped) - 1 == len(list(run.model.parameters()))  # one is mmengine's own, for the log
    assert "cnn" in branches(watch.moved(STEPS)) - branches(watch.moved(0))


def test_a_shared_parameter_is_trained_where_either_of_its_places_is(train):
    model = Toy()
    model.auxiliary_head = nn.Conv2d(8, 2, 1)
    model.neck[0].extra = model.auxiliary_head  # stands in the neck and in a head
    hook = StagedTrainingHook([dict(until_iter=2, train=["neck"]), dict(train=["auxiliary_head", "cnn"])])
    runner = SimpleNamespace(model=model, max_iters=4, max_epochs=1, iter=0, logger=SimpleNamespace(info=print))
    hook.before_run(runner)
    for step, other in ((0, model.neck[1].weight), (2, model.backbone.cnn.conv1.weight)):
        runner.iter = step
        hook.before_train_iter(runner, step)
        assert model.auxiliary_head.weight.requires_grad
        assert other.requires_grad
        assert not model.decode_head.weight.requires_grad


def test_shortened_trainings_stretch_their_stages(tmp_path):
    cfg = Config(
        dict(
            train_cfg=dict(max_epochs=12),
            custom_hooks=[dict(type="StagedTrainingHook", stages=[dict(until_epoch=4, train=NEW), dict(train=ALL)])],
        )
    )
    stretch_schedule(cfg, 3)
    assert cfg.custom_hooks[0].stages[0].until_epoch == 1


# Several processes -------------------------------------------------------------------------------------------------

DDP_SCRIPT = Path(__file__).with_name("staged_ddp.py")


def test_two_processes_train_what_one_would_on_the_whole_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(DDP_SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    good = dict(equal_to_single=True, equal_to_rank_0=True, moved=[True, True, True])
    assert outcomes == [{"accumulate 1": good, "accumulate 2": good}] * 2


def test_wrappers_that_fix_what_is_trained_are_refused():
    runner = SimpleNamespace(model=object.__new__(MMFullyShardedDataParallel))
    with pytest.raises(ValueError, match="one process or under DDP, not in MMFullyShardedDataParallel"):
        StagedTrainingHook([dict(train=["head"])]).before_run(runner)


def test_sharded_models_are_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="one process or under DDP, not in FSDPLinear"):
            StagedTrainingHook([dict(train=["head"])]).before_run(SimpleNamespace(model=model))
    finally:
        torch.distributed.destroy_process_group()


# Mistakes ----------------------------------------------------------------------------------------------------------

LAST = dict(train=["head"])
MISTAKES = {
    "no list": ("head", ["stages is 'head'"]),
    "empty": ([], ["stages is []"]),
    "no dict": (["head"], ["stage 1 is 'head'"]),
    "option": ([dict(untill=0.2, train=["head"]), LAST], ["stage 1", "'untill'", "did you mean 'until'"]),
    "nothing trained": ([dict(until=0.2, train=[]), LAST], ["stage 1", "train=[]", "'fusion'"]),
    "train forgotten": ([dict(until=0.2), LAST], ["stage 1", "train=None"]),
    "train as a string": ([dict(train="head")], ["train='head'", "list"]),
    "last one ends": ([dict(until=0.2, train=["head"])], ["stage 1 is the last", "until out", "add the stage"]),
    "no end": ([LAST, LAST], ["stage 1 needs one of until, until_epoch, until_iter", "has 0"]),
    "two ends": ([dict(until=0.2, until_iter=5, train=["head"]), LAST], ["stage 1", "has 2"]),
    "fraction above one": ([dict(until=3, train=["head"]), LAST], ["until=3", "between 0 and 1", "until_epoch"]),
    "fraction of epochs": ([dict(until_epoch=0.5, train=["head"]), LAST], ["until_epoch=0.5", "whole number"]),
    "zero": ([dict(until_iter=0, train=["head"]), LAST], ["until_iter=0", "from 1 up"]),
    "no number": ([dict(until="half", train=["head"]), LAST], ["until='half'", "no number"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case):
    stages, words = MISTAKES[case]
    with pytest.raises(ValueError) as caught:
        StagedTrainingHook(stages)
    check_one_line(caught, words)


MISTAKES_IN_A_TRAINING = {
    "part": (
        [dict(train=["cnn", "fusoin"])],
        ["stage 1", "'fusoin'", "did you mean 'fusion'", "cnn.stages.3", "vit.embed"],
    ),
    "stage of a trunk": ([dict(train=["cnn.stages.4"])], ["'cnn.stages.4'", "did you mean 'cnn.stages."]),
    "half a name": ([dict(train=["decode"])], ["'decode'"]),
    "order": (
        [dict(until=0.5, train=NEW), dict(until_iter=4, train=NEW), dict(train=ALL)],
        ["stage 2", "until_iter=4", "from iteration 6 to 4", "12 iterations (3 epochs)"],
    ),
    "after the end": ([dict(until_epoch=3, train=NEW), dict(train=ALL)], ["stage 1", "until_epoch=3", "0 to 12"]),
    "all frozen": ([dict(train=["cnn.stem"])], ["stage 1 trains nothing", "cnn.stem"]),
}


@pytest.mark.parametrize("case", MISTAKES_IN_A_TRAINING)
def test_mistakes_that_need_the_model_are_one_line(train, case):
    stages, words = MISTAKES_IN_A_TRAINING[case]
    with pytest.raises(ValueError) as caught:
        train(stages, model=Toy(frozen_stages=1))
    check_one_line(caught, words)


def check_one_line(caught, words):
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
