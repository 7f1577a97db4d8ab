import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope

import hybrid_dense
from hybrid_dense.backbones import ParallelResNeXtViT
from hybrid_dense.engine.hooks import RichProgressHook
from hybrid_dense.necks import HybridFPN
from hybrid_dense.registered import find_class


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ParallelResNeXtViT", ParallelResNeXtViT),
        ("HybridFPN", HybridFPN),
        ("RichProgressHook", RichProgressHook),
        ("OptimWrapper", OptimWrapper),
        ("SGD", torch.optim.SGD),
        ("NoSuchClass", None),
        ("", None),
        (None, None),
    ],
)
def test_finds_what_a_name_means_in_any_registry(name, found):
    hybrid_dense.register_all_modules()
    assert find_class(name) is found


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_looks_in_the_current_scope_first_and_leaves_it_as_it_was(scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert find_class("PackDetInputs" if scope == "mmdet" else "PackSegInputs").__module__.startswith(scope)
        assert find_class("ParallelResNeXtViT") is ParallelResNeXtViT
        assert DefaultScope.get_current_instance().scope_name == scope


def test_a_name_may_carry_its_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        assert find_class("mmdet.FPN").__module__ == "mmdet.models.necks.fpn"
