# The demo's model on a small folder in the COCO layout: $HYBRID_DENSE_DATA/tiny_coco, data/tiny_coco, or any other by
#   --cfg-options data_root=DIR
_base_ = [
    "_base_/models/mask_rcnn_nano.py",
    "_base_/datasets/tiny_coco_instance.py",
    "_base_/schedules/adamw_cosine_short.py",
    "_base_/runtime/detection.py",
]
# Fifty images make short epochs.
train_cfg = dict(max_epochs=110, val_interval=55)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=110, T_max=110)]
