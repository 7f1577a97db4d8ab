"""Every rule as an ONNX graph, for a batch of any size."""

import pytest
import torch
from torch.testing import assert_close

from hybrid_dense.fusion import list_fusions

pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install hybrid-dense[export]")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: pip install hybrid-dense[export]"
)


@pytest.mark.parametrize("rule", [rule for rule in list_fusions() if rule != "IdentityFusion"])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_rule_exports(rule, build, tmp_path):
    fusion = build(rule)
    # 17 × 16 tokens: more than one window, and padded.
    streams = [torch.randn(3, 32, 33, 31), torch.randn(3, 48, 17, 16)]
    program = torch.onnx.export(
        fusion,
        tuple(stream[:2] for stream in streams),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},) * 2,
    )
    program.save(tmp_path / "fusion.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "fusion.onnx", providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    answers = session.run(None, dict(zip(names, (stream.numpy() for stream in streams), strict=True)))
    for answer, expected in zip(answers, fusion(*streams), strict=True):
        assert_close(torch.from_numpy(answer), expected, rtol=1e-4, atol=1e-4)
