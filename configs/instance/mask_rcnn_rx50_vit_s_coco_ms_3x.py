# Mask R-CNN for 36 epochs, with images of several scales.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/datasets/coco_instance_multi_scale.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/runtime/detection.py",
]
