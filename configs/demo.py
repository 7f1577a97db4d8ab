# The demo: a nano Mask R-CNN learns the embedded scenes on a CPU in minutes. `make demo` or `hybrid-dense demo`.
_base_ = [
    "_base_/models/mask_rcnn_nano.py",
    "_base_/datasets/scenes_instance.py",
    "_base_/schedules/adamw_cosine_short.py",
    "_base_/runtime/detection.py",
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=6), mask_head=dict(num_classes=6)))
default_hooks = dict(logger=dict(interval=16), checkpoint=dict(max_keep_ckpts=2, save_best=None))
randomness = dict(seed=0)
