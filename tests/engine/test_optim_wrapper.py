"""GuardedOptimWrapper: no step that is not finite, float16's scale, and otherwise exactly mmengine's OptimWrapper."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from hybrid_dense.engine.optim_wrapper import MAX_OVERFLOWS, GuardedOptimWrapper
from hybrid_dense.engine.stop import TrainingStopped


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def wrap(model, kind=GuardedOptimWrapper, optimizer=torch.optim.AdamW, **options):
    return kind(optimizer=optimizer(model.parameters(), lr=0.01), **options)


def step(model, wrapper, factor=1.0, seed=0):
    """One iteration; ``factor`` goes over the loss."""
    generator = torch.Generator().manual_seed(seed)
    with wrapper.optim_context(model):
        loss = model(torch.randn(6, 4, generator=generator)).square().mean() * factor
    wrapper.update_params(loss)


def everything(model, wrapper):
    return copy.deepcopy((model.state_dict(), wrapper.optimizer.state_dict()))


def assert_same(one, two):
    flat_one, flat_two = (torch.utils._pytree.tree_flatten(part) for part in (one, two))
    assert flat_one[1] == flat_two[1]
    for left, right in zip(flat_one[0], flat_two[0], strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(clip_grad=dict(max_norm=0.05)),
        dict(clip_grad=dict(max_norm=0.05, norm_type=1.0, error_if_nonfinite=True)),
        dict(clip_grad=dict(type="value", clip_value=0.01)),
        dict(clip_grad=dict(max_norm=0.05), accumulative_counts=3),
    ],
    ids=str,
)
def test_finite_steps_are_those_of_mmengine_bit_for_bit(options):
    ours, theirs = net(), net()
    guarded = wrap(ours, **copy.deepcopy(options))
    plain = wrap(theirs, OptimWrapper, **copy.deepcopy(options))
    for seed in range(6):
        step(ours, guarded, seed=seed)
        step(theirs, plain, seed=seed)
    assert_same(everything(ours, guarded), everything(theirs, plain))
    assert plain.message_hub.get_scalar("train/grad_norm").current() > 0


@pytest.mark.parametrize("clip_grad", [None, dict(max_norm=1.0), dict(type="value", clip_value=1.0)], ids=str)
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing_at_all(clip_grad, factor):
    model = net()
    wrapper = wrap(model, clip_grad=clip_grad)
    for seed in range(2):
        step(model, wrapper, seed=seed)
    before = everything(model, wrapper)
    norms = []
    wrapper.on_nonfinite = norms.append
    step(model, wrapper, factor)
    assert len(norms) == 1 and not math.isfinite(norms[0])
    assert_same(everything(model, wrapper), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    step(model, wrapper, seed=5)
    assert not torch.equal(before[0]["0.weight"], model.state_dict()["0.weight"])
    assert len(norms) == 1


def test_batch_norm_forgets_the_batch_that_was_not_finite():
    model = net()
    wrapper = wrap(model)
    wrapper.on_nonfinite = lambda norm: None
    step(model, wrapper)
    statistics = model[1].running_mean.clone(), model[1].num_batches_tracked.clone()
    with wrapper.optim_context(model):
        loss = model(torch.full((6, 4), math.nan)).mean()
        assert model[1].running_mean.isnan().all()
    wrapper.update_params(loss)
    assert torch.equal(model[1].running_mean, statistics[0])
    assert torch.equal(model[1].num_batches_tracked, statistics[1])


def test_one_bad_part_costs_all_that_was_accumulated_with_it():
    model = net()
    wrapper = wrap(model, accumulative_counts=3)
    calls = []
    wrapper.on_nonfinite = calls.append
    before = everything(model, wrapper)
    for factor in (1.0, math.nan, 1.0):
        step(model, wrapper, factor)
    assert len(calls) == 1
    assert_same(everything(model, wrapper), before)
    for seed in range(3):
        step(model, wrapper, seed=seed)
    assert not torch.equal(before[0]["0.weight"], model.state_dict()["0.weight"])


def test_a_loss_that_is_not_finite_counts_although_its_gradients_are():
    model = net()
    wrapper = wrap(model)
    calls = []
    wrapper.on_nonfinite = calls.append
    before = everything(model, wrapper)
    with wrapper.optim_context(model):
        loss = model(torch.randn(6, 4)).square().mean() + torch.tensor(math.inf)
    wrapper.update_params(loss)
    assert len(calls) == 1
    assert_same(everything(model, wrapper), before)


def test_alone_it_stops_the_training():
    model = net()
    wrapper = wrap(model)
    before = everything(model, wrapper)
    with pytest.raises(TrainingStopped, match="not finite") as stopped:
        step(model, wrapper, math.nan)
    assert stopped.value.code == 3
    assert_same(everything(model, wrapper), before)


def test_without_gradients_a_step_is_the_optimizers():
    model = net()
    for dtype in ("float32", "float16"):
        wrapper = wrap(model, dtype=dtype)
        wrapper.step()


class TestFloat16:
    @pytest.mark.parametrize("fused", [False, True])
    def test_scaling_does_not_change_the_steps(self, fused):
        """Powers of two are exact in float32."""
        scaled, plain = net(), net()

        def adam(parameters, lr):
            return torch.optim.AdamW(parameters, lr=lr, fused=fused)

        scaling = wrap(scaled, optimizer=adam, dtype="float16", clip_grad=dict(max_norm=0.1))
        wrapper = wrap(plain, optimizer=adam, clip_grad=dict(max_norm=0.1))
        for seed in range(4):
            step(scaled, scaling, seed=seed)
            step(plain, wrapper, seed=seed)
        assert scaling.loss_scaler.get_scale() == 2.0**16
        assert_same(everything(scaled, scaling), everything(plain, wrapper))

    def test_an_overflow_halves_the_scale_and_is_no_sickness(self):
        model = net()
        wrapper = wrap(model, dtype="float16", loss_scale=dict(init_scale=2.0**20, growth_interval=3))
        wrapper.on_nonfinite = pytest.fail
        before = everything(model, wrapper)
        step(model, wrapper, 1e35)  # finite, and times 2^20 it is not
        assert_same(everything(model, wrapper)[1], before[1])
        assert_same(dict(model.named_parameters()), {k: before[0][k] for k, _ in model.named_parameters()})
        assert wrapper.loss_scaler.get_scale() == 2.0**19
        assert wrapper.overflows == 1
        step(model, wrapper)
        assert wrapper.overflows == 0
        assert wrapper.loss_scaler.get_scale() == 2.0**19
        for _ in range(2):
            step(model, wrapper)
        assert wrapper.loss_scaler.get_scale() == 2.0**20

    def test_it_scales_as_torch_does(self):
        ours, theirs = net(), net()
        wrapper = wrap(ours, dtype="float16", loss_scale=dict(growth_interval=2))
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", growth_interval=2)
        for number, factor in enumerate([1, 1e35, 1, 1e35, 1e35, 1, 1, 1, 1e35, 1]):
            step(ours, wrapper, factor, seed=number)
            inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
            scaler.scale(theirs(inputs).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert wrapper.loss_scaler.get_scale() == scaler.get_scale()
        assert_same(dict(ours.named_parameters()), dict(theirs.named_parameters()))

    def test_a_loss_that_is_not_finite_is_sickness(self):
        model = net()
        wrapper = wrap(model, dtype="float16")
        calls = []
        wrapper.on_nonfinite = calls.append
        before = everything(model, wrapper)
        step(model, wrapper, math.nan)
        assert len(calls) == 1
        assert_same(everything(model, wrapper), before)

    def test_so_are_many_overflows_in_a_row(self):
        model = net()
        wrapper = wrap(model, dtype="float16", loss_scale=dict(init_scale=2.0**100))
        calls = []
        wrapper.on_nonfinite = calls.append
        for _ in range(MAX_OVERFLOWS):
            assert calls == []
            step(model, wrapper, 1e37)
        assert len(calls) == 1

    def test_the_scale_is_saved_and_restored(self):
        model = net()
        wrapper = wrap(model, dtype="float16")
        step(model, wrapper, 1e37)
        step(model, wrapper)
        state = copy.deepcopy(wrapper.state_dict())
        assert state["loss_scaler"]["scale"] == 2.0**15
        other = wrap(net(), dtype="float16")
        other.load_state_dict(state)
        assert other.loss_scaler.state_dict() == wrapper.loss_scaler.state_dict()
        assert "loss_scaler" in state  # what was given is not taken apart
        continued = net()
        continued.load_state_dict(model.state_dict())
        other = wrap(continued, dtype="float16")
        other.load_state_dict(state)
        for wrapped, trained in ((wrapper, model), (other, continued)):
            step(trained, wrapped, seed=9)
        assert_same(everything(model, wrapper), everything(continued, other))

    def test_states_go_between_the_precisions(self):
        scaled, plain = wrap(net(), dtype="float16"), wrap(net())
        plain.load_state_dict(scaled.state_dict())
        scaled.load_state_dict(plain.state_dict())
        assert "loss_scaler" not in plain.state_dict()


def test_it_is_built_from_a_config():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    built = OPTIM_WRAPPERS.build(dict(type="GuardedOptimWrapper", optimizer=optimizer, dtype="float16"))
    assert built.loss_scaler.is_enabled()
    with pytest.raises(ValueError, match="dtype='fp16'; use one of float32, bfloat16, float16"):
        wrap(model, dtype="fp16")
    with pytest.raises(ValueError, match="loss_scale='static'"):
        wrap(model, dtype="float16", loss_scale="static")


def test_a_wrapper_that_shards_gradients_gives_their_norm():
    """As FullyShardedDataParallel: each rank has a part, and only the wrapper knows the norm of all."""

    class Sharded(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.asked = model, []

        def clip_grad_norm_(self, max_norm, norm_type=2.0):
            self.asked.append(max_norm)
            return torch.tensor(math.nan if len(self.asked) > 1 else 1.0)

        def forward(self, inputs):
            return self.model(inputs)

    model = Sharded(net())
    wrapper = wrap(model)
    calls = []
    wrapper.on_nonfinite = calls.append
    step(model, wrapper)
    assert calls == []
    step(model, wrapper)  # this rank's own gradients are finite, another's are not
    assert len(calls) == 1
    assert model.asked == [math.inf, math.inf]


def train_sharded(rank, folder, kind):
    """Five steps on two ranks, the third with a NaN on rank 1 and the fourth, in float16, with an overflow there."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for dtype in ("float32", "float16"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        if kind == "FSDP2":
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        else:
            model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
        wrapper = wrap(model, dtype=dtype, clip_grad=dict(max_norm=0.1))
        calls = []
        wrapper.on_nonfinite = calls.append
        for number in range(5):
            factor = {(2, 1): math.nan, (3, 1): 1e34 if dtype == "float16" else 1.0}.get((number, rank), 1.0)
            with wrapper.optim_context(model):
                loss = model(torch.full((2, 4), rank + 1.0)).square().mean() * factor
            wrapper.update_params(loss)
        scale = wrapper.loss_scaler and wrapper.loss_scaler.get_scale()
        norms = wrapper.message_hub.get_scalar("train/grad_norm").data[0].tolist()
        found[dtype] = (len(calls), scale, norms)
    torch.save(found, f"{folder}/rank{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["FSDP1", "FSDP2"])
def test_ranks_with_shards_of_the_gradients_agree(tmp_path, kind):
    torch.multiprocessing.start_processes(train_sharded, (tmp_path, kind), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert one == two
    assert [found[:2] for found in one.values()] == [(1, None), (1, 2.0**14)]

    # The norm is that of the whole gradient.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    (sum(model(torch.full((2, 4), rank + 1.0)).square().mean() for rank in (0, 1)) / 2).backward()
    whole = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert one["float32"][2][-4] == pytest.approx(float(whole), rel=1e-5)


def test_state_of_another_memory_layout_is_laid_out_as_the_weights():
    """torch's fused AdamW on a CPU would pair the wrong numbers."""

    def train(kind, layout):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        wrapper = kind(optimizer=torch.optim.AdamW(model.parameters(), lr=0.1, fused=True))
        images = torch.randn(2, 3, 8, 8)
        wrapper.update_params(model(images).square().mean())
        return model, wrapper, images

    source, saved, images = train(OptimWrapper, torch.contiguous_format)
    for kind in (GuardedOptimWrapper, OptimWrapper):
        model, wrapper, _ = train(kind, torch.channels_last)
        model.load_state_dict(source.state_dict())
        wrapper.load_state_dict(copy.deepcopy(saved.state_dict()))
        wrapper.update_params(model(images).square().mean())
        if kind is GuardedOptimWrapper:
            resumed = model.weight.detach().clone()
    saved.update_params(source(images).square().mean())
    torch.testing.assert_close(resumed, source.weight.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.weight, source.weight, rtol=1e-4, atol=1e-5), "mmengine's own is right by now"
