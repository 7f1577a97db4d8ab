# The demo's model on a small folder in the COCO layout: $HYBRID_DENSE_DATA/tiny_coco, data/tiny_coco, or any other by
#   --cfg-options data_root=DIR
_base_ = [
    "_base_/models/mask_rcnn_nano.py",
    "_base_/datasets/tiny_coco_instance.py",
    "_base_/schedules/adamw_cosine_short.py",
    "_base_/runtime/detection.py",
]
# Fifty images make short epochs.
max_epochs = 110
train_cfg = dict(max_epochs=max_epochs, val_interval=55)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", begin=0, end=max_epochs, T_max=max_epochs, by_epoch=True, convert_to_iter_based=True
    ),
]
