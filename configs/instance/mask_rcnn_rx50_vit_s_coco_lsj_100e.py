# Mask R-CNN for 100 epochs under large-scale jitter at 1024 pixels; meant for 64 images a step.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/datasets/coco_instance_jitter.py",
    "../_base_/schedules/adamw_100e.py",
    "../_base_/runtime/detection.py",
]
model = dict(data_preprocessor=dict(batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)]))
default_hooks = dict(checkpoint=dict(interval=5))
