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
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        dropout_ratio=0.0,
        num_classes=7,
        # Five of six pixels are background, which is learned at once. (mmseg's avg_non_ignore excludes class weights.)
        loss_decode=dict(avg_non_ignore=False, class_weight=[0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ),
)
# Pixels take longer to learn than boxes.
max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", begin=0, end=max_epochs, T_max=max_epochs, by_epoch=True, convert_to_iter_based=True
    ),
]
default_hooks = dict(logger=dict(interval=16), checkpoint=dict(max_keep_ckpts=1, save_best=None))
randomness = dict(seed=0)
