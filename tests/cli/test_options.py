"""Changes from the command line reach the config, and a misspelt key never passes unseen."""

import pytest
from mmengine.config import Config

from hybrid_dense.cli import CommandError
from hybrid_dense.cli.options import merge_options


@pytest.fixture
def cfg() -> Config:
    return Config(
        dict(
            default_scope="mmengine",
            data_root="data/coco/",
            model=dict(
                backbone=dict(
                    type="ParallelResNeXtViT",
                    variant="rx50_vit_s",
                    fusion=dict(type="GatedFusion"),
                ),
                neck=dict(type="HybridFPN", in_channels=[256, 512, 1024, 2048]),
                stages=[dict(epochs=1), dict(epochs=2)],
            ),
            train_dataloader=dict(batch_size=2, dataset=dict(ann_file="data/coco/train.json", pipeline=[])),
            evaluator=[dict(ann_file="data/coco/val.json"), dict(ann_file="elsewhere/val.json")],
        )
    )


def test_known_keys_change_values(cfg):
    merge_options(
        cfg, {"model.backbone.variant": "rx26_vit_ti", "model.stages.1.epochs": 5, "train_dataloader.batch_size": 4}
    )
    assert cfg.model.backbone.variant == "rx26_vit_ti"
    assert cfg.model.stages[1].epochs == 5
    assert cfg.train_dataloader.batch_size == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone.window", 7),  # a parameter of the backbone's base class
        ("model.backbone.fusion.direction", "to_cnn"),  # a parameter of the fusion's base class
        ("model.neck.bottom_up", True),
        ("train_dataloader.num_workers", 2),  # torch's DataLoader
        ("randomness.seed", 3),  # the runner
        ("sync_bn", "torch"),
        ("optim_wrapper.constructor", "HybridLayerDecay"),  # taken out before the wrapper is built
    ],
)
def test_parameters_that_the_config_does_not_mention_are_known(cfg, key, value):
    merge_options(cfg, {key: value})
    node = cfg
    for part in key.split("."):
        node = node[part]
    assert node == value


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.backbone.varient", "model.backbone.variant"),
        ("model.backbone.fusion.directoin", "model.backbone.fusion.direction"),
        ("model.nekc.out_channels", "model.neck"),
        ("train_dataloader.batchsize", "train_dataloader.batch_size"),
        ("trian_dataloader.batch_size", "train_dataloader"),
        ("model.neck.bottomup", "model.neck.bottom_up"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(cfg, key, nearest):
    before = cfg.to_dict()
    with pytest.raises(CommandError, match="unknown key") as error:
        merge_options(cfg, {key: 1})
    assert f"the nearest known is {nearest} " in str(error.value)
    assert "\n" not in str(error.value)
    assert cfg.to_dict() == before


def test_plus_adds_an_unknown_key(cfg):
    merge_options(cfg, {"+model.new.key": 1})
    assert cfg.model.new.key == 1


def test_a_new_type_decides_which_keys_are_known(cfg):
    with pytest.raises(CommandError):
        merge_options(cfg, {"model.neck.variant": "rx50_vit_s"})
    merge_options(cfg, {"model.neck.variant": "rx26_vit_s", "model.neck.type": "ParallelResNeXtViT"})
    assert cfg.model.neck.variant == "rx26_vit_s"


@pytest.mark.parametrize("key", ["model.stages.7.epochs", "model.stages.first.epochs", "model.backbone.variant.size"])
def test_paths_through_lists_and_values_are_refused(cfg, key):
    with pytest.raises(CommandError, match="it has no"):
        merge_options(cfg, {key: 1})


def test_data_root_moves_every_path_below_it(cfg):
    merge_options(cfg, {"data_root": "/mine"})
    assert cfg.data_root == "/mine/"
    assert cfg.train_dataloader.dataset.ann_file == "/mine/train.json"
    assert [part.ann_file for part in cfg.evaluator] == ["/mine/val.json", "elsewhere/val.json"]


def test_data_root_without_one_to_move_is_an_error():
    with pytest.raises(CommandError, match="no data_root"):
        merge_options(Config(dict(model=dict())), {"data_root": "/mine"})
