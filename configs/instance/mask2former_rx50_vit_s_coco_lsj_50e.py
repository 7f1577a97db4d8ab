# Mask2Former for instances, for 50 epochs under large-scale jitter at 1024 pixels.
_base_ = [
    "../_base_/models/mask2former_instance.py",
    "../_base_/datasets/coco_instance_jitter.py",
    "../_base_/schedules/queries_50e.py",
    "../_base_/runtime/detection.py",
]
default_hooks = dict(checkpoint=dict(interval=5))
