# The demo's semantic task: a nano semantic FPN labels every pixel of the embedded scenes.
# `make demo ARGS="--task semantic"`.
_base_ = [
    "_base_/models/fpn_head_nano.py",
    "_base_/datasets/scenes_semantic.py",
    "_base_/schedules/adamw_cosine_short.py",
    "_base_/runtime/segmentation.py",
]
model = dict(
    decode_head=dict(
        num_classes=7,
        # Five of six pixels are background, which is learned at once. (mmseg's avg_non_ignore excludes class weights.)
        loss_decode=dict(avg_non_ignore=False, class_weight=[0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    )
)
# Pixels take longer to learn than boxes.
train_cfg = dict(max_epochs=10, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=10, T_max=10)]
default_hooks = dict(logger=dict(interval=16), checkpoint=dict(max_keep_ckpts=2, save_best=None))
randomness = dict(seed=0)
