import logging
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hybrid_dense.channels import fill_channels
from hybrid_dense.cli.configs import build
from hybrid_dense.engine.layer_decay import HEADER, HybridLayerDecay, rates_table
from hybrid_dense.engine.rates import Rates

CONFIGS = Path(__file__).parents[2] / "configs"
LR, DECAY = 1e-3, 0.05
NANO = dict(type="ParallelResNeXtViT", variant="rxnano_vit_pico")
OPTIONS = dict(class_token=True, registers=2, layer_scale=1e-5, residual_conv=True)


class Model(nn.Module):
    """A model of parts; what is given in a list becomes a ModuleList."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, nn.ModuleList(part) if isinstance(part, list) else part)


def nano(**options):
    return Model(
        backbone=MODELS.build(dict(NANO, **options)),
        neck=nn.Conv2d(4, 4, 1),
        decode_head=nn.Conv2d(4, 2, 1),
        auxiliary_head=[nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)],
    )


def constructor(optimizer=None, **paramwise):
    optimizer = dict(dict(type="AdamW", lr=LR, weight_decay=DECAY), **(optimizer or {}))
    return HybridLayerDecay(dict(type="OptimWrapper", optimizer=optimizer), paramwise)


def rates_of(model, **paramwise):
    return {rate.place.name: rate for rate in constructor(**paramwise).list_rates(model)}


def group_of(wrapper, parameter):
    [group] = [g for g in wrapper.optimizer.param_groups if any(parameter is own for own in g["params"])]
    return group


def built(name, scope, **backbone):
    """The model of a config, on the meta device where it can be, and the config."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.model.backbone.update(backbone)
    fill_channels(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        return build(cfg.model), cfg


# Rates -------------------------------------------------------------------------------------------------------------


def test_a_rate_is_the_branch_times_the_decay_of_every_layer_above():
    model = nano(**OPTIONS)
    rates = rates_of(model, layer_decay=0.5, cnn=0.1, fusion=2.0, neck=3.0, head=4.0)
    blocks = len(model.backbone.vit.blocks)
    expected = {
        "backbone.cnn.conv1.weight": 0.1 * 0.5**5,
        "backbone.cnn.layer1.0.conv1.weight": 0.1 * 0.5**4,
        "backbone.cnn.layer4.0.bn3.bias": 0.1 * 0.5,
        "backbone.vit.pos_embed": 0.5 ** (blocks + 1),
        "backbone.vit.blocks.0.attn.qkv.weight": 0.5**blocks,
        f"backbone.vit.blocks.{blocks - 1}.mlp.fc1.weight": 0.5,
        "backbone.vit.norm.weight": 1.0,
        "backbone.fusions.0.to_cnn.carry.project.weight": 2.0,
        "neck.weight": 3.0,
        "decode_head.weight": 4.0,
        "auxiliary_head.1.bias": 4.0,
    }
    assert {name: rates[name].lr for name in expected} == pytest.approx({n: LR * s for n, s in expected.items()})


def test_each_trunk_may_have_its_own_decay():
    rates = rates_of(nano(), layer_decay=dict(vit=0.5))
    assert rates["backbone.cnn.conv1.weight"].lr == LR
    assert rates["backbone.vit.patch_embed.proj.weight"].lr < 0.1 * LR


def test_custom_keys_multiply_the_rate_and_replace_the_decay():
    keys = {"vit": dict(lr_mult=0.5), "vit.blocks.0": dict(lr_mult=3.0), "pos_embed": dict(decay_mult=2.0)}
    model = nano()
    plain, custom = rates_of(model, layer_decay=0.5), rates_of(model, layer_decay=0.5, custom_keys=keys)
    for name, factor in {
        "backbone.vit.patch_embed.proj.weight": 0.5,
        "backbone.vit.blocks.0.attn.qkv.weight": 3.0,  # the longest key counts
        "backbone.cnn.conv1.weight": 1.0,
    }.items():
        assert custom[name].lr == pytest.approx(plain[name].lr * factor)
        assert custom[name].weight_decay == plain[name].weight_decay == DECAY
    assert (plain["backbone.vit.pos_embed"].weight_decay, custom["backbone.vit.pos_embed"].weight_decay) == (0, 0.1)


UNDECAYED = re.compile(
    r"(bn\d|norm\w*|downsample\.1|squeeze_\w+\.0)\.weight$|bias$|pos_embed$|_token$|gamma$|\.gate\.|\.excite_"
)


@pytest.mark.parametrize("rule", ["GatedFusion", "ChannelAttentionFusion", "CrossAttentionFusion", "DeformableFusion"])
def test_norms_biases_positions_tokens_gates_and_scales_have_no_weight_decay(rule):
    model = nano(fusion=dict(type=rule), **OPTIONS)
    rates = rates_of(model)
    undecayed = {name for name, rate in rates.items() if rate.weight_decay == 0}
    assert undecayed == {name for name in rates if UNDECAYED.search(name)}
    assert {
        f"backbone.vit.{name}" for name in ("pos_embed", "cls_token", "reg_token", "blocks.0.ls1.gamma")
    } < undecayed
    assert {rate.weight_decay for rate in rates.values()} == {0, DECAY}
    # Beyond convolutions and matrices nothing is decayed.
    assert all(rates[name].parameter.dim() > 1 for name in rates.keys() - undecayed)


def test_names_of_foreign_models_are_known():
    class RMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    class NormedLinear(nn.Linear):
        pass

    def holder(*names, size=(2, 2)):
        module = nn.Module()
        for name in names:
            module.register_parameter(name, nn.Parameter(torch.zeros(size)))
        return module

    attention = nn.MultiheadAttention(4, 2)
    aggregate, to_tokens = nn.Linear(2, 2), nn.Linear(2, 2)
    tables = holder("relative_position_bias_table", "rel_pos_h", "absolute_pos_embed", "mask_token", "level_embed")
    model = Model(
        tables=tables,
        position_embeddings=nn.Embedding(3, 2),
        rms=RMSNorm(),
        linear=NormedLinear(2, 2),
        attention=attention,
        aggregate=aggregate,
        to_tokens=to_tokens,
    )
    decayed = {name for name, rate in rates_of(model).items() if rate.weight_decay}
    assert decayed == {
        "linear.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "aggregate.weight",
        "to_tokens.weight",
    }


def test_the_optimizers_own_default_of_weight_decay_spares_the_norms_too():
    wrapper = HybridLayerDecay(dict(optimizer=dict(type="AdamW", lr=LR)))(Model(norm=nn.LayerNorm(2)))
    assert wrapper.optimizer.param_groups[0]["weight_decay"] == 0


# Groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scope"), [("demo", "mmdet"), ("demo_semantic", "mmseg")])
def test_every_parameter_of_both_hosts_models_is_in_exactly_one_group(name, scope):
    model, _ = built(name, scope, frozen_stages=1)
    wrapper = constructor(layer_decay=0.7, cnn=0.1)(model)
    grouped = [id(parameter) for group in wrapper.optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert set(grouped) == trained
    assert len(trained) < len(list(model.parameters()))  # those that are frozen are in none
    pairs = [(group["lr"], group["weight_decay"]) for group in wrapper.optimizer.param_groups]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize(
    "name", ["demo", "detection/dino_rx50_vit_s_coco_12e", "semantic/segmenter_rx50_voc12aug_512_80k"]
)
def test_branches_of_the_hosts_models(name):
    model, cfg = built(name, "mmseg" if "semantic" in name else "mmdet")
    rates = rates_of(model)
    assert rates.keys() == {name for name, _ in model.named_parameters()}
    outside = {n.split(".")[0]: r.place.branch for n, r in rates.items() if not n.startswith("backbone.")}
    assert outside.pop("neck", "neck") == "neck"
    assert set(outside.values()) == {"head"}
    inside = {r.place.branch for n, r in rates.items() if n.startswith("backbone.")}
    assert inside == ({"cnn", "vit", "fusion"} if cfg.model.backbone.type != "PlainResNeXt" else {"cnn"})


def test_a_shared_parameter_is_in_one_group():
    shared = nn.Conv2d(4, 4, 1)
    twice = nn.Conv2d(4, 4, 1)
    twice.weight = shared.weight
    model = Model(neck=shared, bbox_head=[twice, shared])
    wrapper = constructor(neck=0.5)(model)
    assert group_of(wrapper, shared.weight)["lr"] == LR * 0.5
    assert group_of(wrapper, twice.bias)["lr"] == LR


def test_wrapped_models_have_the_groups_of_plain_ones():
    torch.manual_seed(0)
    plain, wrapped = nano(), nano()
    expected = rates_table(constructor(layer_decay=0.7, cnn=0.1).list_rates(plain))
    wrapped.backbone.vit.blocks[0] = checkpoint_wrapper(wrapped.backbone.vit.blocks[0])
    wrapped.backbone = torch.compile(wrapped.backbone, backend="eager")
    assert any("_orig_mod" in name for name, _ in wrapped.named_parameters())
    assert rates_table(constructor(layer_decay=0.7, cnn=0.1).list_rates(wrapped)) == expected


def test_sharded_models_have_the_groups_of_plain_ones(tmp_path):
    expected = rates_table(constructor(layer_decay=0.7, cnn=0.1).list_rates(nano()))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        sharded = nano()
        for parameter in sharded.parameters():
            parameter.data = parameter.data.contiguous()  # fully_shard refuses channels_last
        mesh = init_device_mesh("cpu", (1,))
        for part in (*sharded.backbone.vit.blocks, sharded.backbone.vit.norm, sharded):
            fully_shard(part, mesh=mesh)
        assert isinstance(sharded.neck.weight, DTensor)
        assert rates_table(constructor(layer_decay=0.7, cnn=0.1).list_rates(sharded)) == expected
    finally:
        torch.distributed.destroy_process_group()


def test_flattened_parameters_are_refused():
    model = Model(backbone=nn.Module())
    model.backbone.register_parameter("_flat_param", nn.Parameter(torch.zeros(8)))
    with pytest.raises(ValueError, match="use_orig_params=True"):
        rates_of(model)


def test_the_table_is_logged_once_and_counts_everything():
    class Keep(logging.Handler):
        def emit(self, record):
            lines.extend(record.getMessage().splitlines())

    model, lines, keep = nano(frozen_stages=0), [], Keep()
    logger = MMLogger.get_current_instance()
    logger.addHandler(keep)
    try:
        constructor(layer_decay=0.7)(model)
    finally:
        logger.removeHandler(keep)
    [header] = [index for index, line in enumerate(lines) if re.split(r"\s{2,}", line.strip()) == list(HEADER)]
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[header + 1 :]]
    rows = [row for row in rows if len(row) == len(HEADER)]  # mmengine's own lines follow
    assert sum(int(row[-1].replace(",", "")) for row in rows) == sum(p.numel() for p in model.parameters())
    assert sum(int(row[-2]) for row in rows) == len(list(model.parameters()))
    assert [row[:4] for row in rows if row[2] == "frozen"] == [["cnn", "0 of 5", "frozen", "–"]]


# The flagship ------------------------------------------------------------------------------------------------------


def test_rates_of_the_flagship_fall_with_the_depth():
    model, cfg = built("mask_rcnn_rx50_vit_pretrained", "mmdet", frozen_stages=-1)
    assert cfg.optim_wrapper.constructor == "HybridLayerDecay"
    found = HybridLayerDecay(cfg.optim_wrapper, cfg.optim_wrapper.paramwise_cfg).list_rates(model)
    assert [rate.place.name for rate in found] == [name for name, _ in model.named_parameters()]
    by_depth = {branch: {} for branch in ("cnn", "vit", "fusion", "neck", "head")}
    for rate in found:
        by_depth[rate.place.branch].setdefault(rate.depth, set()).add(rate.lr)
    assert {branch: len(depths) for branch, depths in by_depth.items()} == dict(cnn=5, vit=14, fusion=1, neck=1, head=1)
    for depths in by_depth.values():
        assert all(len(rates) == 1 for rates in depths.values())
        falling = [depths[depth].pop() for depth in sorted(depths)]
        assert all(deeper < above for deeper, above in zip(falling, falling[1:], strict=False))
    rows = rates_table(found)
    assert sum(int(row[-2]) for row in rows) == len(found)
    assert sum(int(row[-1].replace(",", "")) for row in rows) == sum(p.numel() for p in model.parameters())


def test_the_page_has_the_flagships_table():
    model, cfg = built("mask_rcnn_rx50_vit_pretrained", "mmdet")
    found = HybridLayerDecay(cfg.optim_wrapper, cfg.optim_wrapper.paramwise_cfg).list_rates(model)
    page = (CONFIGS.parent / "docs/rates.md").read_text()
    assert [row for row in rates_table(found) if f"| {' | '.join(row)} |" not in page] == []


# Foreign backbones -------------------------------------------------------------------------------------------------


class Foreign(nn.Module):
    """A backbone after mmpretrain's convention."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.layers, self.ln1 = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.LayerNorm(2)

    def get_layer_depth(self, param_name, prefix=""):
        if not param_name.startswith(prefix):
            return 2, 3
        name = param_name[len(prefix) :]
        return (0 if name.startswith("patch_embed") else 1 if name.startswith("layers") else 2), 3


def test_a_foreign_backbone_that_knows_its_depth_decays():
    rates = rates_of(Model(backbone=Foreign(), head=nn.Linear(2, 2)), layer_decay=0.5, backbone=0.1, cnn=7, vit=7)
    lrs = {name: rate.lr / LR for name, rate in rates.items() if name.endswith("weight")}
    assert lrs == pytest.approx(
        {
            "backbone.patch_embed.weight": 0.025,
            "backbone.layers.0.weight": 0.05,
            "backbone.ln1.weight": 0.1,
            "head.weight": 1.0,
        }
    )


def test_a_foreign_backbone_that_does_not_know_gets_one_clear_error_or_one_rate():
    model = Model(backbone=nn.Linear(2, 2), head=nn.Linear(2, 2))
    with pytest.raises(ValueError) as caught:
        rates_of(model, layer_decay=0.7)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("Linear", "get_layer_depth", "0.7", "layer_decay=1.0"))
    assert rates_of(model, backbone=0.1)["backbone.weight"].lr == pytest.approx(0.1 * LR)


# Mistakes ----------------------------------------------------------------------------------------------------------

MISTAKES = {
    "key": (dict(layer_dacay=0.7), ["'layer_dacay'", "did you mean 'layer_decay'", "custom_keys"]),
    "branch": (dict(nek=0.7), ["'nek'", "did you mean 'neck'"]),
    "trunk": (dict(layer_decay=dict(vti=0.7)), ["layer_decay", "'vti'", "did you mean 'vit'"]),
    "decay above one": (dict(layer_decay=1.5), ["1.5", "at most 1"]),
    "decay of zero": (dict(layer_decay=dict(vit=0)), ["layer_decay 0 "]),
    "negative": (dict(cnn=-0.1), ["cnn=-0.1", "from 0 up"]),
    "no number": (dict(cnn="0.1"), ["cnn='0.1'"]),
    "custom option": (dict(custom_keys=dict(a=dict(lr_mul=1))), ["'lr_mul'", "did you mean 'lr_mult'"]),
    "custom value": (dict(custom_keys=dict(a=0.1)), ["custom_keys['a']", "0.1", "dict"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case):
    paramwise, words = MISTAKES[case]
    with pytest.raises(ValueError) as caught:
        Rates.read(paramwise)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_a_missing_rate_is_named():
    with pytest.raises(ValueError, match=r"needs a number as optimizer\.lr"):
        HybridLayerDecay(dict(optimizer=dict(type="AdamW")))


# Fused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (dict(type="AdamW"), True),
        (dict(type="Adam"), True),
        (dict(type=torch.optim.AdamW), True),
        (dict(type="AdamW", fused=False), False),
        (dict(type="AdamW", foreach=True), None),
        (dict(type="SGD"), None),
    ],
)
def test_adam_runs_fused_unless_the_config_says_otherwise(optimizer, fused):
    wrapper = constructor(optimizer)(Model(head=nn.Linear(2, 2)))
    assert wrapper.optimizer.defaults.get("fused") is fused


def test_what_torch_cannot_fuse_runs_as_ever():
    class Unfused(torch.optim.AdamW):
        def __init__(self, params, fused=None, **options):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be of supported devices")
            super().__init__(params, **options)

    assert constructor(dict(type=Unfused))(Model(head=nn.Linear(2, 2))).optimizer.defaults["fused"] is None


# In a training -----------------------------------------------------------------------------------------------------


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Foreign()
        self.head = nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        features = self.backbone.ln1(self.backbone.layers(self.backbone.patch_embed(inputs)))
        return dict(loss=self.head(features).square().mean())


class WatchRates(Hook):
    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append([group["lr"] for group in runner.optim_wrapper.optimizer.param_groups])


SCHEDULE = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type="MultiStepLR", by_epoch=True, milestones=[2, 3], gamma=0.1),
]


def train(folder, runner, **options):
    """Four epochs of two steps; returns the runner and the rates of every step and group."""
    data = [dict(inputs=torch.randn(2, generator=torch.Generator().manual_seed(index))) for index in range(4)]
    watch = WatchRates()
    run = runner(
        model=Toy(),
        work_dir=str(folder),
        experiment_name=re.sub(r"\W", "_", str(folder)),
        train_dataloader=dict(
            dataset=data,
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(
            type="OptimWrapper",
            constructor="HybridLayerDecay",
            optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.5),
            paramwise_cfg=dict(layer_decay=0.5, backbone=0.1),
        ),
        param_scheduler=SCHEDULE,
        auto_scale_lr=dict(enable=True, base_batch_size=1),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        custom_hooks=[watch],
        **options,
    )
    run.train()
    return run, watch.seen


@pytest.mark.parametrize("runner", [Runner, FlexibleRunner])
def test_every_group_follows_the_schedule_from_its_own_rate_and_resumes(tmp_path, runner):
    whole, seen = train(tmp_path / "whole", runner)
    assert len(seen) == 8
    base = [2 * rate for rate in (0.0025, 0.0025, 0.005, 0.005, 0.01, 0.1, 0.1)]  # twice, by auto_scale_lr
    warm, low, lowest = 0.1, 0.1, 0.01
    expected = [warm, None, None, 1, low, low, lowest, lowest]
    for rates, factor in zip(seen, expected, strict=True):
        if factor is not None:
            assert rates == pytest.approx([rate * factor for rate in base])
    for rates in seen:
        assert [rate / rates[-1] for rate in rates] == pytest.approx([rate / base[-1] for rate in base])

    resumed, after = train(tmp_path / "resumed", runner, load_from=str(tmp_path / "whole/epoch_2.pth"), resume=True)
    assert after == seen[4:]
    for parameter, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(parameter, other)
