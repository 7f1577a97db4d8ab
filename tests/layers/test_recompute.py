"""Recomputation changes memory only: values, gradients, statistics and random numbers stay."""

import copy
import pickle

import pytest
import torch
from torch import nn

from hybrid_dense.layers.drop_path import DropPath
from hybrid_dense.layers.recompute import recompute


class Branch(nn.Module):
    """What blocks and fusions are made of: BatchNorm, dropout and drop path on a residual branch."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4, momentum=momentum)
        self.dropout = nn.Dropout(0.3)
        self.drop_path = DropPath(0.4)
        self.calls = 0

    def forward(self, features, other=None, scale=1.0):
        self.calls += 1
        hidden = self.dropout(torch.tanh(self.bn(self.conv(features)))) * scale
        return features + self.drop_path(hidden if other is None else hidden * other)


def twins(**options):
    torch.manual_seed(0)
    plain = Branch(**options)
    recomputed = copy.deepcopy(plain)
    recompute(recomputed)
    return plain, recomputed


def run(module, steps=1, **keywords):
    """Values, gradients, statistics and the random number after ``steps`` batches, from one seed."""
    torch.manual_seed(1)
    results = []
    for _ in range(steps):
        features = torch.randn(8, 4, 5, 6, requires_grad=True)
        output = module(features, **keywords)
        output.square().sum().backward()
        results += [output.detach(), features.grad]
    results += [parameter.grad for parameter in module.parameters()]
    results += [buffer.clone() for buffer in module.buffers()]
    return [*results, torch.rand(3)]


@pytest.mark.parametrize("momentum", [0.1, None], ids=["moving", "cumulative"])
def test_everything_equals_a_run_without(momentum):
    plain, recomputed = twins(momentum=momentum)
    for ours, theirs in zip(run(plain, steps=3), run(recomputed, steps=3), strict=True):
        assert torch.equal(ours, theirs)
    assert (plain.calls, recomputed.calls) == (3, 6)
    assert recomputed.bn.num_batches_tracked == 3
    assert recomputed.bn.momentum == momentum


@torch.no_grad()
def test_nothing_is_recomputed_without_gradients():
    plain, recomputed = twins()
    features = torch.randn(2, 4, 5, 6)
    assert torch.equal(plain.eval()(features), recomputed.eval()(features))
    assert recomputed.calls == 1
    with torch.inference_mode():
        recomputed(features)
    assert recomputed.calls == 2


def test_frozen_batchnorm_stays_frozen():
    plain, recomputed = twins()
    plain.bn.eval()
    recomputed.bn.eval()
    for ours, theirs in zip(run(plain), run(recomputed), strict=True):
        assert torch.equal(ours, theirs)
    assert recomputed.bn.num_batches_tracked == 0


def test_statistics_survive_an_error_on_the_way_back():
    _, module = twins()
    features = torch.randn(2, 4, 5, 6, requires_grad=True)
    output = module(features)
    module.conv.weight.data = module.conv.weight.data[:, :2]  # what is computed again fails
    with pytest.raises(RuntimeError):
        output.sum().backward()
    assert module.bn.momentum == 0.1
    assert module.bn.num_batches_tracked == 1
    assert "bn.num_batches_tracked" in module.state_dict()


def test_batchnorm_without_statistics():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh())
    recomputed = copy.deepcopy(plain)
    recompute(recomputed)
    for ours, theirs in zip(run(plain), run(recomputed), strict=True):
        assert torch.equal(ours, theirs)


def test_several_inputs_those_without_gradients_and_keywords():
    plain, recomputed = twins()
    other = torch.rand(8, 4, 5, 6)
    for keywords in (dict(other=other), dict(other=None, scale=0.5)):
        for ours, theirs in zip(run(plain, **keywords), run(recomputed, **keywords), strict=True):
            assert torch.equal(ours, theirs)


def test_the_graph_can_be_walked_twice():
    _, module = twins()
    features = torch.randn(8, 4, 5, 6, requires_grad=True)
    loss = module(features).square().sum()
    first = torch.autograd.grad(loss, features, retain_graph=True)[0]
    second = torch.autograd.grad(loss, features)[0]
    assert torch.equal(first, second)
    assert module.bn.num_batches_tracked == 1
    assert module.bn.momentum == 0.1


def test_modules_inside_each_other():
    plain, _ = twins()
    outer = nn.Sequential(copy.deepcopy(plain), nn.Conv2d(4, 4, 1))
    plain = copy.deepcopy(outer)
    recompute(outer[0])
    recompute(outer)
    for ours, theirs in zip(run(plain, steps=2), run(outer, steps=2), strict=True):
        assert torch.equal(ours, theirs)


def test_class_children_and_state_dict_stay():
    plain, recomputed = twins()
    assert type(recomputed) is Branch
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    assert dict(recomputed.named_modules()).keys() == dict(plain.named_modules()).keys()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_with_their_own_weights(clone):
    plain, recomputed = twins()
    copied = clone(recomputed)
    with torch.no_grad():
        for parameter in recomputed.parameters():
            parameter.zero_()
    for ours, theirs in zip(run(plain), run(copied), strict=True):
        assert torch.equal(ours, theirs)
    assert (copied.calls, recomputed.calls) == (2, 0)


def saved_bytes(module, inputs):
    """What autograd keeps for the way back beside the parameters, in bytes."""
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(inputs)
    return sum(kept.values()), output


def test_memory_falls_to_the_inputs():
    torch.manual_seed(0)
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(4)))
    inputs = torch.randn(32, 16, requires_grad=True)
    without, _ = saved_bytes(blocks, inputs)
    for block in blocks:
        recompute(block)
    # Hooks inside a checkpoint do not reach these outer ones: what remains is what the checkpoints hold themselves.
    held = []
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0].nbytes))
    saved, output = saved_bytes(blocks, inputs)
    assert without > 4 * 2 * 32 * 64 * 4  # two hidden maps a block
    assert saved + sum(held) < 0.25 * without
    output.sum().backward()
    assert inputs.grad is not None
