"""Every backbone becomes an ONNX file that computes the same."""

import numpy as np
import pytest
import torch
from members import MEMBERS, build, draw_images, perturb

# Exporting takes seconds: by default every topology with one rule and every rule in one topology, the others on demand.
SOME_MEMBERS = [
    pytest.param(*member, id="-".join(member), marks=[] if chosen else pytest.mark.slow)
    for member in MEMBERS
    for chosen in [member[-1] == "both" and ("ParallelResNeXtViT" in member or "GatedFusion" in member)]
]


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@pytest.mark.parametrize(("topology", "rule", "direction"), SOME_MEMBERS)
def test_onnxruntime_computes_the_same(topology, rule, direction, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    backbone = perturb(build(topology, rule, direction)).eval()
    images = draw_images(1, (67, 129))
    with torch.no_grad():
        expected = backbone(images)
    torch.onnx.export(backbone, (images,), tmp_path / "backbone.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "backbone.onnx", providers=["CPUExecutionProvider"])
    maps = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    for level, exact in zip(maps, expected, strict=True):
        np.testing.assert_allclose(level, exact.numpy(), rtol=1e-4, atol=1e-4 * exact.abs().max().item())
