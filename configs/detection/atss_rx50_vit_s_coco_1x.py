# ATSS for 12 epochs.
_base_ = [
    "../_base_/models/atss.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/runtime/detection.py",
]
