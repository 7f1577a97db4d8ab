"""A wrong value of a config is one line that names the key, the value and the mend, before anything is built."""

from fnmatch import fnmatchcase

import pytest
from mmengine.config import Config
from small_demo import DEMO

from hybrid_dense.cli import CommandError, main
from hybrid_dense.cli.session import register_host
from hybrid_dense.cli.values import TYPES, VALUES, check_values

PROJECT = DEMO.parents[1]

WRONG = {
    "model=rcnn": "give a dict with the model",
    "optim_wrapper=AdamW": "give a dict(optimizer=…)",
    "optim_wrapper.optimizer=AdamW": "give a dict(type=…, lr=…)",
    "default_hooks=none": "give a dict of hooks",
    "train_cfg=12": "give a dict, or None",
    "val_cfg=12": "give a dict, or None",
    "train_dataloader=12": "give a dict, or None",
    "optim_wrapper.optimizer.lr=abc": "give a number from 0 up, such as 1e-4",
    "optim_wrapper.optimizer.lr=-1": "give a number from 0 up, such as 1e-4",
    "optim_wrapper.optimizer.lr=True": "give a number from 0 up, such as 1e-4",
    "optim_wrapper.optimizer.weight_decay=-0.1": "give a number from 0 up",
    "optim_wrapper.accumulative_counts=0": "give a whole number from 1 up; 1 is a step for each batch",
    "optim_wrapper.clip_grad.max_norm=-1": "give a number above 0",
    "randomness.seed=abc": "give a whole number from 0 to 2**32 - 1, or None",
    "randomness.seed=4294967296": "give a whole number from 0 to 2**32 - 1, or None",
    "scenes.train=0": "give a whole number from 1 up",
    "scenes.val=few": "give a whole number from 1 up",
    "scenes.size=abc": "give a whole number of pixels",
    "train_cfg.max_epochs=0": "give a whole number from 1 up",
    "train_cfg.max_epochs=-1": "give a whole number from 1 up",
    "train_cfg.max_epochs=abc": "give a whole number from 1 up",
    "+train_cfg.max_iters=0": "give a whole number from 1 up",
    "train_cfg.val_interval=0": "give a whole number from 1 up; one beyond the last epoch",
    "train_cfg.val_interval=1.5": "give a whole number from 1 up; one beyond the last epoch",
    "train_dataloader.batch_size=0": "give a whole number of images from 1 up",
    "train_dataloader.batch_size=abc": "give a whole number of images from 1 up",
    "val_dataloader.batch_size=0": "give a whole number of images from 1 up",
    "train_dataloader.num_workers=-1": "give a whole number; 0 loads in the training's process",
    "default_hooks.checkpoint.interval=0": "give a whole number from 1 up, or -1",
    "default_hooks.logger.interval=0": "give a whole number of steps from 1 up",
    "log_level=LOUD": "give one of NOTSET, DEBUG, INFO, WARN, WARNING, ERROR, CRITICAL",
    "model.type=MaskRCN": "no such model is registered; did you mean MaskRCNN",
    "model.data_preprocessor.type=Foo": "no such model is registered; misspelt, or custom_imports lacks its module",
    "model.backbone.type=ParalelResNeXtViT": "did you mean ParallelResNeXtViT",
    "model.neck.type=HybridFNP": "did you mean HybridFPN",
    "model.rpn_head.type=RPNHaed": "did you mean RPNHead",
    "model.roi_head.bbox_head.type=ConvFCBBoxHaed": "did you mean ConvFCBBoxHead",
    "train_dataloader.dataset.type=CocoDatset": "no such dataset is registered; did you mean CocoDataset",
    "train_dataloader.dataset.pipeline.0.type=LoadImageFromFil": "no such transform is registered; did you mean LoadIm",
    "train_dataloader.sampler.type=DefaultSmapler": "no such data sampler is registered; did you mean DefaultSampler",
    "+train_dataloader.batch_sampler.type=Foo": "no such data sampler is registered",
    "train_cfg.type=EpochBasedTrainLop": "no such loop is registered; did you mean EpochBasedTrainLoop",
    "val_cfg.type=ValLop": "no such loop is registered; did you mean ValLoop",
    "val_evaluator.type=CocoMetrics": "no such metric is registered; did you mean CocoMetric",
    "optim_wrapper.type=OptimWraper": "no such optim_wrapper is registered; did you mean OptimWrapper",
    "optim_wrapper.optimizer.type=AdmaW": "no such optimizer is registered; did you mean AdamW",
    "optim_wrapper.constructor=HybridLayerDecoy": "did you mean HybridLayerDecay",
    "param_scheduler.0.type=LinearRL": "no such parameter scheduler is registered; did you mean LinearLR",
    "default_hooks.logger.type=LoggingHook": "no such hook is registered; did you mean LoggerHook",
    "custom_hooks.0.type=AutoCastHook": "no such hook is registered; did you mean AutocastHook",
    "visualizer.type=DetLocalVisualiser": "no such visualizer is registered; did you mean DetLocalVisualizer",
    "log_processor.type=LogProcesor": "no such log_processor is registered; did you mean LogProcessor",
    "model.backbone.type=mmnowhere.ResNet": "no such model is registered; mmnowhere is not installed",
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_value_is_one_line(capsys, tmp_path, option):
    assert main(["train", str(DEMO), "--work-dir", str(tmp_path / "work"), "--cfg-options", option]) == 2
    captured = capsys.readouterr()
    line = captured.err.removesuffix("\n")
    key, value = option.removeprefix("+").split("=")
    assert line.startswith(f"hybrid-dense: error: {key}=") and "\n" not in line
    assert value in line and WRONG[option] in line
    assert captured.out == ""
    assert not (tmp_path / "work").exists()


# Places that an option cannot reach in the demo's config.
ELSEWHERE = {
    "val_evaluator.*.type": (dict(val_evaluator=[dict(type="CocoMetrics")]), "val_evaluator.0.type='CocoMetrics'"),
    "param_scheduler.type": (dict(param_scheduler=dict(type="LinearRL")), "param_scheduler.type='LinearRL'"),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_wrong_value_in_a_part_of_another_shape_is_named(place):
    content, named = ELSEWHERE[place]
    cfg = Config(dict(default_scope="mmdet", **content))
    register_host(cfg)
    with pytest.raises(CommandError, match="did you mean") as error:
        check_values(cfg)
    assert named in str(error.value)


def test_every_row_of_both_tables_is_tried():
    keys = {option.removeprefix("+").split("=")[0] for option in WRONG}
    rows = {pattern for pattern, *_ in (*VALUES, *TYPES)}
    assert rows == {pattern for pattern in rows for key in keys if matches(key, pattern)} | set(ELSEWHERE)


def matches(key: str, pattern: str) -> bool:
    names, parts = key.split("."), pattern.split(".")
    return len(names) == len(parts) and all(map(fnmatchcase, names, parts))


@pytest.mark.parametrize("name", ["demo", "demo_semantic", "mask_rcnn_rx50_vit", "detection/dino_rx50_vit_s_coco_12e"])
def test_shipped_configs_fit(name):
    cfg = Config.fromfile(PROJECT / f"configs/{name}.py")
    register_host(cfg)
    check_values(cfg)


@pytest.mark.parametrize(
    "content",
    [
        dict(train_cfg=dict(type="IterBasedTrainLoop", max_iters=10, val_interval=500.0)),  # v3det's configs divide
        dict(val_evaluator=dict(type="MultiDatasetsEvaluator", metrics=[])),
        dict(norm_cfg=dict(type="BN"), conv_cfg=dict(type="ConvWS")),  # no loops, though they end in _cfg
        dict(test_evaluator=dict(type="NoMetricOfThisName")),  # what a training does not read
        dict(val_cfg=None, val_dataloader=None, val_evaluator=None, optim_wrapper=None, randomness=dict(seed=None)),
        dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=-1), logger=None)),
        dict(optim_wrapper=dict(optimizer=dict(type="AdamW", lr=None)), log_level="WARN"),
        dict(train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1, val_interval=float("inf"))),
        dict(model=dict(type="MaskRCNN", backbone=dict(type="MixVisionTransformer", _scope_="mmseg"))),
    ],
    ids=lambda content: next(iter(content)),
)
def test_what_mmengine_and_mmdet_accept_is_accepted(content):
    cfg = Config(dict(default_scope="mmdet", **content))
    register_host(cfg)
    check_values(cfg)
