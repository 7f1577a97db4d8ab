"""What is timed, in which order, and what is made of the times. No test waits for a clock of the machine."""

import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import hybrid_dense
from hybrid_dense.analysis.benchmark import (
    DoesNotFit,
    Growth,
    Job,
    Row,
    find_growth,
    ratio,
    run_benchmark,
    time_interleaved,
)
from hybrid_dense.analysis.complexity import count_flops, count_parameters
from hybrid_dense.analysis.machine import GEMM_SIDES, Gemm, MemoryMeter, describe_machine, state_bytes
from hybrid_dense.analysis.pipeline import Stopwatch, hand_over, time_loader, time_pipeline
from hybrid_dense.analysis.startup import time_command, time_until
from hybrid_dense.analysis.structure import describe_parts
from hybrid_dense.analysis.subjects import Subject, build, parse_config, parse_subject
from hybrid_dense.analysis.workload import BackboneWorkload, Workload, measure_memory

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still but for what is added to it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


# ------------------------------------------------------------------------------------------- timing


def make_jobs(clock, log, **seconds):
    return {
        (name, "run"): Job(lambda name=name, cost=cost: (log.append(name), clock.spend(cost)))
        for name, cost in seconds.items()
    }


def test_jobs_take_turns_round_by_round():
    clock, log = Clock(), []
    times = time_interleaved(make_jobs(clock, log, a=1.0, b=2.0, c=3.0), repeat=3, warm_up=2, clock=clock)
    assert "".join(log) == "aabbcc" + "abc" * 3
    assert times == {("a", "run"): [1.0] * 3, ("b", "run"): [2.0] * 3, ("c", "run"): [3.0] * 3}


def test_a_short_job_fills_a_block_and_counts_once():
    clock, log = Clock(), []
    times = time_interleaved(make_jobs(clock, log, a=0.125, b=1.0), 1, warm_up=1, block_seconds=0.5, clock=clock)
    assert "".join(log) == "ab" + "aaaab"
    assert times["a", "run"] == [0.125]


def test_preparation_is_outside_of_the_time_and_waiting_inside():
    clock, log = Clock(), []
    job = Job(lambda: clock.spend(1.0), prepare=lambda: (log.append("prepared"), clock.spend(50.0)))

    def synchronize():
        log.append("waited")
        clock.spend(0.25)

    assert time_interleaved({("a", ""): job}, 1, warm_up=1, clock=clock, synchronize=synchronize)["a", ""] == [1.25]
    assert log == ["prepared", "waited", "waited"] * 2


def row(seconds, **values):
    defaults = dict(subject="a", mode="train", size=64, batch=2, parameters=7, flops=6 * 10**9)
    return Row(**{**defaults, **values}, seconds=tuple(seconds))


def test_a_row_says_what_its_times_mean():
    record = row([4.0, 1.0, 2.0, 2.0, 3.0]).record(gemm_rate=12e9)
    assert (record["median"], record["minimum"]) == (2.0, 1.0)
    assert record["spread"] == pytest.approx((3.0 - 2.0) / 2.0)
    assert record["images_per_second"] == 1.0
    assert record["gemm_share"] == pytest.approx(6e9 / 2.0 / 12e9)
    assert row([1.0, 2.0]).record(1.0)["spread"] is None
    json.dumps(record)


def test_ratios_are_taken_within_each_round():
    """The machine was three times slower in the second round, for all alike."""
    hybrid, cnn, vit = row([3.0, 9.0, 3.3]), row([1.0, 3.0, 1.0]), row([1.0, 3.0, 1.0])
    assert ratio(hybrid, cnn, vit) == pytest.approx(1.5)


def test_growth_of_a_power_law_is_its_exponent():
    sizes = [256, 512, 1024, 2048]
    growth = find_growth(sizes, [1e-6 * size**2.5 for size in sizes])
    assert growth.factors == pytest.approx([2**2.5] * 3)
    assert growth.exponents == pytest.approx([2.5] * 3)
    assert growth.overall == pytest.approx(2.5)


def test_growth_between_neighbours_and_overall():
    growth = find_growth([100, 200, 400], [1.0, 4.0, 32.0])
    assert growth == Growth((100, 200, 400), (4.0, 8.0), pytest.approx((2.0, 3.0)), pytest.approx(2.5))
    # Sizes need not double.
    assert find_growth([100, 300], [1.0, 9.0]).exponents == pytest.approx([2.0])


# ------------------------------------------------------------------------------------------- a whole run


class Recorder(Workload):
    """Work that notes what is done with it."""

    batch = 1

    def __init__(self, name, log):
        self.module, self.name, self.log = nn.Linear(3, 2), name, log

    def load(self, size):
        self.size = size
        self.log.append(f"load {self.name} {size}")

    def prepare(self, mode):
        assert self.size
        super().prepare(mode)

    def run(self, mode):
        assert self.module.training == (mode == "train")
        self.log.append(f"{self.name} {mode}")

    def count_forward(self):
        return self.size**2


def fake_gemm(log):
    gemm = Gemm(CPU, torch.float32)
    gemm.products = lambda: {"a @ b": lambda: log.append("gemm")}
    return gemm


def test_a_run_measures_every_subject_in_every_mode_at_every_size():
    log, done = [], []
    works = {name: Recorder(name, log) for name in "AB"}
    found = run_benchmark(
        works,
        [32, 16],
        ("train", "infer"),
        2,
        fake_gemm(log),
        lambda name, size, mode: (size, 1),
        progress=done.append,
        block_seconds=0,
    )
    turn = ["gemm", "A train", "A infer", "B train", "B infer"]
    warm_up = [name for name in turn for _ in range(2)]
    assert log == ["load A 16", "load B 16", *warm_up, *turn * 2, "load A 32", "load B 32", *warm_up, *turn * 2]
    assert len(done) == 2 * 5 * 3
    keys = [(row.subject, row.mode, row.size) for row in found.rows]
    assert keys == [(name, mode, size) for size in (16, 32) for name in "AB" for mode in ("train", "infer")]
    assert found.find("A", "train", 16).flops == 3 * found.find("A", "infer", 16).flops == 3 * 256
    assert {row.parameters for row in found.rows} == {8}
    assert {len(row.seconds) for row in found.rows} == {2}
    assert [row.memory for row in found.rows] == [16] * 4 + [32] * 4
    assert len(found.gemm_seconds) == 4
    assert found.find("C", "train", 16) is None


def test_what_does_not_fit_is_left_out_with_its_larger_sizes():
    log, asked = [], []

    def measure(name, size, mode):
        asked.append((name, size))
        if name == "A" and size > 16:
            raise DoesNotFit("it needs 9 GiB")
        return 1, 1

    works = {name: Recorder(name, log) for name in "AB"}
    found = run_benchmark(works, [16, 32, 64], ("train",), 1, fake_gemm(log), measure, block_seconds=0)
    assert [(row.subject, row.size) for row in found.rows] == [("A", 16), ("B", 16), ("B", 32), ("B", 64)]
    assert found.skipped[0] == "A, train at 32×32 is left out: it needs 9 GiB"
    assert found.skipped[1].startswith("A, train at 64×64 is left out")
    assert ("A", 64) not in asked
    assert "load A 64" not in log


# ------------------------------------------------------------------------------------------- subjects


def test_a_backbone_by_its_class_variant_and_options():
    subject = parse_subject("ParallelResNeXtViT:rxnano_vit_pico:fusion=AddFusion,window=7,fusion_stages=[1,2]")
    assert subject.kind == "backbone"
    assert subject.config == dict(
        type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=dict(type="AddFusion"), window=7,
        fusion_stages=[1, 2],
    )  # fmt: skip
    nested = parse_subject('SerialResNeXtViT:rxnano_vit_pico:fusion=dict(type="AddFusion",direction="both")')
    assert nested.config["fusion"] == dict(type="AddFusion", direction="both")
    assert parse_subject("PlainViT:rxnano_vit_pico:global_attention=none").config["global_attention"] == "none"


@pytest.mark.parametrize(
    "text",
    [
        'dict(type="mmdet.ResNeXt", depth=50, out_indices=(0, 1))',
        '{"type": "mmdet.ResNeXt", "depth": 50, "out_indices": [0, 1]}',
    ],
)
def test_any_registered_backbone_as_python_or_json(text):
    subject = parse_subject(text)
    assert subject.config == dict(type="mmdet.ResNeXt", depth=50, out_indices=[0, 1])
    assert (subject.scope, subject.name) == ("mmdet", "mmdet.ResNeXt(depth=50, out_indices=[0, 1])")


def test_json_words_keep_their_meaning():
    assert parse_config('{"a": true, "b": null}') == parse_config("dict(a=True, b=None)") == dict(a=True, b=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ParalelResNeXtViT:rx50_vit_s", "did you mean 'ParallelResNeXtViT'"),
        ("cnn:rx5", "did you mean 'rx50'"),
        ("vit:huge", "There are pico, ti, s, b, l"),
        ("SerialResNeXtViT", "such as SerialResNeXtViT:rx50_vit_s"),
        ("PlainViT:rxnano_vit_pico:window", "is no dict|literals"),
        ('dict(type=__import__("os").system("false"))', "more than literals"),
        ("dict(depth=50)", "has no type"),
        ("{nonsense", "is no dict"),
    ],
)
def test_an_unknown_subject_names_the_nearest(text, words):
    with pytest.raises(ValueError, match=words):
        parse_subject(text)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(type="ParallelResNeXtVit"), "did you mean 'ParallelResNeXtViT'"),
        (dict(type="PlainViT", variant="rx50_vit_x"), "did you mean 'rx50_vit_"),
        (dict(type="PlainViT", variant="rxnano_vit_pico", windw=7), "did you mean 'window'"),
    ],
)
def test_what_cannot_be_built_says_why(config, words):
    with pytest.raises(ValueError, match=words):
        build(Subject("x", "backbone", config))


def test_trunks_of_a_hybrid_are_those_it_is_made_of():
    text = "InterleavedResNeXtViT:rxnano_vit_pico:window=7,fusion=AddFusion,attend_in=bottleneck"
    trunks = parse_subject(text).trunks()
    assert [trunk.name for trunk in trunks] == ["cnn:rxnano:window=7", "vit:pico:window=7"]
    assert parse_subject("PlainViT:rxnano_vit_pico").trunks() is None
    assert trunks[0].trunks() is None
    hybrid = MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", window=7))
    for trunk, original in zip(trunks, (hybrid.cnn, hybrid.vit), strict=True):
        built = build(trunk).trunk
        assert {name: value.shape for name, value in built.state_dict().items()} == {
            name: value.shape for name, value in original.state_dict().items()
        }
        assert [getattr(module, "window", None) for module in built.modules()] == [
            getattr(module, "window", None) for module in original.modules()
        ]


def test_a_trunk_sees_its_images_channels_last():
    trunk, seen = build(parse_subject("cnn:rxnano")), []
    trunk.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = trunk.eval()(torch.zeros(1, 3, 64, 64))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert [tuple(level.shape) for level in maps] == [(1, 64 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]


def test_a_neck_takes_the_channels_of_its_backbone():
    subject = parse_subject("ParallelResNeXtViT:rxnano_vit_pico").with_neck(None)
    maps = build(subject).eval()(torch.zeros(1, 3, 64, 64))
    assert [level.shape[1] for level in maps] == [256] * 5
    assert parse_subject("cnn:rxnano").with_neck(None).neck is None


# ------------------------------------------------------------------------------------------- work


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return parse_subject("ParallelResNeXtViT:rxnano_vit_pico")


def test_costs_are_those_that_analysis_counts(backbone):
    work = BackboneWorkload(build(backbone), batch=2, device=CPU, dtype=torch.float32)
    work.load(96)
    total = describe_parts(backbone.config, (96, 96))[-1]
    assert work.count_parameters() == total.parameters
    assert work.count_forward() == 2 * total.flops


@pytest.mark.parametrize("trunk", ["cnn:rxnano", "vit:pico"])
def test_costs_of_a_trunk_are_its_share_of_the_hybrid(trunk):
    work = BackboneWorkload(build(parse_subject(trunk)), 1, CPU, torch.float32)
    work.load(64)
    hybrid = MODELS.build(dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")).eval()
    part = getattr(hybrid, trunk[:3])
    assert work.count_parameters() == count_parameters(part)
    with torch.no_grad():
        assert work.count_forward() == count_flops(lambda: part(torch.zeros(1, 3, 64, 64)))


def test_a_module_that_needs_values_is_counted_on_real_images():
    class Nosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, images):
            return (self.conv(images) * float(images.sum()),)

    work = BackboneWorkload(Nosy(), 1, CPU, torch.float32)
    work.load(8)
    assert work.count_forward() == 2 * 3 * 8 * 64


def test_a_training_step_reaches_every_parameter_and_starts_from_no_gradient(backbone):
    work = BackboneWorkload(build(backbone), 2, CPU, torch.bfloat16)
    work.load(64)
    work.prepare("train")
    work.run("train")
    assert work.module.training
    first = {name: parameter.grad.clone() for name, parameter in work.module.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in first.values())
    work.run_again("train")
    kept = dict(work.module.named_parameters())["backbone.cnn.conv1.weight"].grad
    assert kept.norm() > 1.5 * first["backbone.cnn.conv1.weight"].norm()  # it was added to
    work.run("train")
    fresh = dict(work.module.named_parameters())["backbone.cnn.conv1.weight"].grad
    torch.testing.assert_close(fresh, first["backbone.cnn.conv1.weight"], rtol=0.1, atol=0.05)


def test_inference_leaves_no_gradient_and_maps_are_float32(backbone):
    work = BackboneWorkload(build(backbone), 1, CPU, torch.bfloat16)
    work.load(64)
    work.prepare("infer")
    work.run("infer")
    assert not work.module.training
    assert all(parameter.grad is None for parameter in work.module.parameters())
    with torch.inference_mode():
        assert {level.dtype for level in work.forward()} == {torch.float32}


def test_frozen_maps_are_no_part_of_the_backward():
    work = BackboneWorkload(build(parse_subject("cnn:rxnano:frozen_stages=2")), 2, CPU, torch.float32)
    work.load(64)
    work.prepare("train")
    work.run("train")
    assert len(work.gradients) == 2


def test_state_is_weights_buffers_and_gradients():
    module = nn.BatchNorm1d(10)  # 20 parameters, 20 statistics, one count of 8 bytes
    assert state_bytes(module) == 4 * 40 + 8
    module(torch.randn(3, 10)).sum().backward()
    assert state_bytes(module) == 4 * 60 + 8


def test_the_peak_is_what_was_held_in_between():
    meter = MemoryMeter(CPU)
    before = meter.start()
    torch.ones(64 * 2**20, dtype=torch.uint8)  # freed at once
    assert 60 * 2**20 < meter.peak() - before < 160 * 2**20
    # The peak begins anew.
    assert meter.peak() - meter.start() < 70 * 2**20
    assert meter.peak() - meter.start() < 16 * 2**20


def measure_alone(subject, mode):
    """(weights, total, step) in bytes at 320 pixels; in a new process, because freed memory stays with an old one."""
    work = BackboneWorkload(build(subject), 1, CPU, torch.float32)
    total, step = measure_memory(work, 320, mode)
    assert total == step + state_bytes(work.module)
    return 4 * work.count_parameters(), total, step


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_memory_of_a_step_is_beside_that_of_the_weights(backbone, mode):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        weights, total, step = pool.submit(measure_alone, backbone, mode).result()
    state = total - step
    if mode == "infer":
        assert weights < state < 1.1 * weights  # and BatchNorm's buffers
    else:
        assert step > 4 * 3 * 320**2
        assert 2 * weights < state < 2.1 * weights  # gradients as large as the weights


def test_the_matrix_product_counts_two_operations_a_multiply_add(monkeypatch):
    monkeypatch.setitem(GEMM_SIDES, "cpu", 32)
    gemm = Gemm(CPU, torch.bfloat16)
    a, b = gemm.factors
    products = {form: product() for form, product in gemm.products().items()}
    assert gemm.flops == 2 * 32**3
    torch.testing.assert_close(products["a @ b"], a @ b)
    torch.testing.assert_close(products["a @ b.T"], a @ b.T)


def test_the_machine_is_named():
    machine = describe_machine(CPU, torch.bfloat16)
    assert machine["threads"] == torch.get_num_threads()
    assert (machine["dtype"], machine["torch"]) == ("bfloat16", torch.__version__)
    assert machine["cpu"]
    json.dumps(machine)


# ------------------------------------------------------------------------------------------- data


class BaseMasks:
    def __init__(self, clock):
        self.clock = clock

    def __getitem__(self, index):
        self.clock.spend(0.25)
        return self

    @property
    def areas(self):
        self.clock.spend(0.5)
        return 1


class Masks(BaseMasks):
    def rescale(self):
        self.clock.spend(1.0)
        return self.resize()

    def resize(self):
        self.clock.spend(2.0)
        return self

    def __reduce__(self):
        self.clock.spend(0.5)
        return Masks, (self.clock,)

    @staticmethod
    def random():
        return 7


class Decoder:
    """Stands for a module with a function."""

    @staticmethod
    def read(clock):
        clock.spend(3.0)


class Load:
    def __init__(self, clock):
        self.clock = clock

    def __call__(self, data):
        self.clock.spend(1.0)
        Decoder.read(self.clock)
        self._load_masks(data)
        return data

    def _load_masks(self, data):
        self.clock.spend(2.0)
        Decoder.read(self.clock)  # for the masks: their work
        data["masks"] = Masks(self.clock)


class Scale:
    def __init__(self, clock):
        self.clock = clock

    def __call__(self, data):
        self.clock.spend(7.0)
        data["masks"].rescale()[0].areas  # noqa: B018
        return None if data["index"] == 1 else data


class Data:
    def __init__(self, clock):
        self.pipeline = type("Compose", (), dict(transforms=[Load(clock), Scale(clock)]))()

    def get_data_info(self, index):
        return dict(index=index)


def test_a_pipelines_time_is_shared_out_over_transforms_and_masks():
    clock = Clock()
    wrapped = type("Repeat", (), dict(dataset=Data(clock)))()
    times = time_pipeline(wrapped, [0, 1, 2], [Masks], dict(decode=[(Decoder, "read")]), clock=clock)
    assert (times.images, times.refused) == (2, 1)
    assert [(step.name, step.seconds, step.parts) for step in times.steps] == [
        ("Load", 9.0, dict(decode=3.0, masks=5.0)),
        ("Scale", 10.75, dict(decode=0.0, masks=3.75)),  # `resize` within `rescale` counts once
        ("to the main process", 0.5, dict(decode=0.0, masks=0.5)),
    ]
    record = times.record()
    assert record["images_per_second"] == pytest.approx(1 / 20.25)
    assert sum(step["share"] for step in record["transforms"]) == pytest.approx(1)
    assert record["shares"] == pytest.approx(dict(decode=3 / 20.25, masks=9.25 / 20.25, rest=8 / 20.25))
    # Classes are as they were.
    assert Masks.random() == 7
    assert Masks.resize.__qualname__ == "Masks.resize" and not hasattr(Masks.resize, "__wrapped__")
    assert not hasattr(Load._load_masks, "__wrapped__")
    assert not hasattr(BaseMasks.areas.fget, "__wrapped__")
    assert not hasattr(Decoder.read, "__wrapped__")


def test_what_goes_through_the_pipe_is_all_but_tensors():
    sample = dict(picture=torch.zeros(1000, 1000), mask=b"0" * 5000)
    assert 5000 < len(hand_over(sample)) < 10000


def test_a_stopwatch_lets_go_after_an_error():
    clock = Clock()
    watch = Stopwatch(["masks"], clock)
    with pytest.raises(ZeroDivisionError), watch.watching("masks", [(Masks, "resize")]):
        raise ZeroDivisionError
    assert not hasattr(Masks.resize, "__wrapped__")


def test_a_pipeline_that_refuses_all_is_an_error():
    with pytest.raises(ValueError, match="refused all 1 images"):
        time_pipeline(Data(Clock()), [1])


def test_a_loader_is_timed_after_its_first_batches():
    clock, taken = Clock(), []

    class Loader:
        num_workers, prefetch_factor = 1, 2

        def __iter__(self):
            for number in range(4):
                taken.append(number)
                clock.spend(100.0 if len(taken) <= 3 else 0.5)
                yield dict(inputs=[0, 0])

    # Three batches are passed over; four of two images in two seconds are counted, through the end of an epoch.
    assert time_loader(Loader(), 8, clock) == pytest.approx(8 / 2.0)
    assert taken == [0, 1, 2, 3, 0, 1, 2]


# ------------------------------------------------------------------------------------------- start-up


def test_a_command_is_run_once_more_than_it_is_counted(tmp_path):
    log = tmp_path / "log"
    assert len(time_command(["sh", "-c", f"echo x >> {log}"], 2)) == 2
    assert log.read_text() == "x\n" * 3
    with pytest.raises(ValueError, match="failed: it is broken"):
        time_command(["sh", "-c", "echo it is broken >&2; exit 3"], 1)


def test_time_until_stops_the_command(tmp_path):
    mark, ended, log = tmp_path / "mark", tmp_path / "ended", tmp_path / "log"
    script = f"trap 'touch {ended}; exit 0' TERM; touch {mark}; while true; do sleep 0.02; done"
    seconds = time_until(["sh", "-c", script], mark.exists, limit=60, log=log)
    assert math.isfinite(seconds) and seconds > 0
    assert ended.exists()
    with pytest.raises(ValueError, match="ended before: no demo today"):
        time_until(["sh", "-c", "echo no demo today"], lambda: False, limit=60, log=log)


def test_subjects_cover_every_topology():
    for topology in hybrid_dense.list_topologies():
        assert len(parse_subject(f"{topology}:rxnano_vit_pico").trunks()) == 2
