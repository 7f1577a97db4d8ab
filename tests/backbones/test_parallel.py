"""Where ParallelResNeXtViT lets the streams exchange."""

import pytest
import torch
from mmengine.registry import MODELS

import hybrid_dense  # noqa: F401  (registers the backbone)


def changed_maps(stages, **fusion):
    """Which of C2..C5 the ViT reaches, once the fusions have weights."""
    torch.manual_seed(0)
    fusion = dict(type="AddFusion", **fusion)
    backbone = MODELS.build(
        dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=fusion, fusion_stages=stages)
    ).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for parameter in backbone.fusions.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        pairs = zip(backbone(images), backbone.cnn(images), strict=True)
        return [not torch.equal(hybrid, alone) for hybrid, alone in pairs], backbone


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("all", [True, True, True, True]),
        ("early", [True, True, True, True]),
        ("late", [False, False, True, True]),
        ((3,), [False, False, True, True]),
        ([4], [False, False, False, True]),
        ((), [False, False, False, True]),
    ],
)
def test_the_vit_reaches_the_cnn_from_the_first_chosen_stage_on(stages, expected):
    assert changed_maps(stages)[0] == expected


def test_only_the_last_exchange_leaves_the_vit_when_the_direction_is_to_vit():
    assert changed_maps("all", direction="to_vit")[0] == [False, False, False, True]


@pytest.mark.parametrize(
    ("stages", "rules"),
    [
        ("all", ["GatedFusion"] * 4),
        ("early", ["GatedFusion", "GatedFusion", "IdentityFusion", "AddFusion"]),
        ("late", ["IdentityFusion", "IdentityFusion", "GatedFusion", "GatedFusion"]),
        ([3, 1], ["GatedFusion", "IdentityFusion", "GatedFusion", "AddFusion"]),
    ],
)
def test_rules_stand_where_they_were_asked_for(stages, rules):
    config = dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion_stages=stages)
    fusions = MODELS.build(config).fusions
    assert [type(fusion).__name__ for fusion in fusions] == rules
    assert fusions[-1].direction == "to_cnn"


def test_the_callers_config_stays_as_it_was():
    fusion = dict(type="GatedFusion", direction="to_vit")
    config = dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=fusion)
    MODELS.build(config)
    assert config == dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico", fusion=fusion)
    assert fusion == dict(type="GatedFusion", direction="to_vit")
