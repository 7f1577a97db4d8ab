"""What the comparisons share, and a stand-in with which timm can be imported where torchvision lacks its operators."""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hybrid_dense.weights import convert

# What torchvision registers meta kernels for while it is imported, which fails where its compiled part does not load.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
STAND_IN = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision() -> None:
    """Import torchvision; where its operators are missing, declare the ones it asks for, without implementation."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in OPERATORS:
            STAND_IN.define(operator)
        import torchvision  # noqa: F401


if find_spec("timm") and find_spec("torchvision"):
    import_torchvision()


@pytest.fixture
def perturb():
    """Move every tensor of a model away from what it starts as: equality then says something about each of them."""

    def call(model: nn.Module, keep: tuple[str, ...] = ()) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith(keep or "num_batches_tracked") or not tensor.is_floating_point():
                    continue
                noise = torch.rand(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(0.5 + 0.5 * noise)
                else:
                    tensor.add_(noise - 0.5, alpha=0.1 if tensor.dim() < 4 else 0.01)
        return model.eval()

    return call


@pytest.fixture
def filled():
    """Our trunk with all the weights of another model, through the package's own converter."""

    def call(trunk: nn.Module, model: nn.Module) -> nn.Module:
        conversion = convert(model.state_dict(), trunk)
        coverage = conversion.coverage
        assert not (coverage.missing or coverage.mismatched or coverage.resized), coverage.table(all=True)
        assert coverage.coverage == 1.0
        counters = [name for name in trunk.state_dict() if name.endswith("num_batches_tracked")]
        missing, unexpected = trunk.load_state_dict(conversion.weights, strict=False)
        assert not unexpected
        assert set(missing) <= set(counters)
        return trunk.eval()

    return call


@pytest.fixture
def same(request):
    """Equality to 1e-5; what it compared is printed (``pytest -rP``)."""

    def call(ours: torch.Tensor, theirs: torch.Tensor, what: str = "values") -> None:
        assert theirs.std() > 1e-3  # the comparison is not one of zeros
        difference = (ours - theirs).abs().max()
        print(f"{request.node.name}: {what}: largest difference {difference:.1e} of {theirs.abs().max():.2g}")
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    return call
