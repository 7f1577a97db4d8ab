"""GatedFusion's gates weigh the message, look at both streams, and can be read."""

import torch
from torch.testing import assert_close


@torch.no_grad()
def test_a_hook_reads_the_gates(build, streams):
    conv, grid = streams
    fusion = build("GatedFusion")
    gates = {}
    for name in ("to_cnn", "to_vit"):
        bridge = getattr(fusion, name)
        bridge.gate.register_forward_hook(lambda module, inputs, gate, name=name: gates.update({name: gate}))
    fused_conv, fused_grid = fusion(conv, grid)
    # Both are decided where the streams meet, at the coarser of the two strides.
    coarse = grid.shape[-2:]
    assert gates["to_cnn"].shape == (*conv.shape[:2], *coarse)
    assert gates["to_vit"].shape == grid.shape
    for gate in gates.values():
        assert gate.min() > 0
        assert gate.max() < 1
        assert gate.std() > 0.01, "the gate does not look at the streams"
    # What the hook shows is what weighs the message.
    for fused, stream, source, bridge, name in [
        (fused_conv, conv, grid, fusion.to_cnn, "to_cnn"),
        (fused_grid, grid, conv, fusion.to_vit, "to_vit"),
    ]:
        message = gates[name] * bridge.carry.gather(source, coarse)
        assert_close(fused, stream + bridge.carry.spread(message, stream.shape[-2:]))


@torch.no_grad()
def test_the_gate_looks_at_both_streams(build, streams):
    conv, grid = streams
    fusion, gates = build("GatedFusion"), []
    fusion.to_cnn.gate.register_forward_hook(lambda module, inputs, gate: gates.append(gate))
    for pair in [(conv, grid), (conv + torch.randn_like(conv), grid), (conv, torch.randn_like(grid))]:
        fusion(*pair)
    assert not torch.allclose(gates[0], gates[1], atol=1e-3)
    assert not torch.allclose(gates[0], gates[2], atol=1e-3)
