"""Every backbone becomes one graph for torch.compile."""

import pytest
import torch
from members import MEMBERS, TOPOLOGIES, build, draw_images, every_topology, perturb
from torch.testing import assert_close

# Tracing takes seconds: by default every topology and rule in both directions, one direction alone on demand.
SOME_MEMBERS = [
    pytest.param(*member, id="-".join(member), marks=[] if member[-1] == "both" else pytest.mark.slow)
    for member in MEMBERS
]


@pytest.mark.parametrize(("topology", "rule", "direction"), SOME_MEMBERS)
def test_one_graph_for_torch_compile(topology, rule, direction):
    torch._dynamo.reset()
    backbone = perturb(build(topology, rule, direction)).eval()
    images = draw_images(1, (67, 129))
    # fullgraph raises at the first thing that is not part of a graph; what a compiler makes of it is torch's affair.
    compiled = torch.compile(backbone, fullgraph=True, backend="eager", dynamic=False)
    with torch.no_grad():
        for level, expected in zip(compiled(images), backbone(images), strict=True):
            assert_close(level, expected)


@every_topology
def test_one_graph_with_checkpointing_too(topology):
    torch._dynamo.reset()
    images = draw_images(2, (64, 96))
    passes = []
    for compiled in (False, True):
        backbone = perturb(build(topology, with_cp=True)).train()
        forward = torch.compile(backbone, fullgraph=True, backend="aot_eager") if compiled else backbone
        sum((level * level).mean() for level in forward(images)).backward()
        gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
        passes.append({**gradients, **dict(backbone.named_buffers())})
    for name, tensor in passes[0].items():
        assert_close(passes[1][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_inductor_computes_the_same(topology):
    torch._dynamo.reset()
    backbone = perturb(build(topology)).train()
    images = draw_images(2, (64, 96))
    compiled = torch.compile(backbone, fullgraph=True)
    gradients = []
    for forward in (backbone, compiled):
        backbone.zero_grad()
        # Training BatchNorm moves its statistics, which no output of this pass depends on.
        sum((level * level).mean() for level in forward(images)).backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters()])
    for plain, fast in zip(*gradients, strict=True):
        assert_close(fast, plain, rtol=1e-3, atol=1e-4 * max(plain.abs().max().item(), 1e-3))
