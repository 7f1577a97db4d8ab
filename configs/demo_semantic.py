# The demo's semantic task: a nano semantic FPN labels every pixel of the embedded scenes.
# `make demo ARGS="--task semantic"`.
_base_ = [
    "_base_/models/fpn_head.py",
    "_base_/datasets/scenes_semantic.py",
    "_base_/schedules/adamw_cosine_short.py",
    "_base_/runtime/segmentation.py",
]
model = dict(
    backbone=dict(variant="rxnano_vit_pico", drop_path_rate=0.0),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64, norm="BN"),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.0, num_classes=7),
)
default_hooks = dict(logger=dict(interval=16), checkpoint=dict(max_keep_ckpts=1, save_best=None))
randomness = dict(seed=0)
