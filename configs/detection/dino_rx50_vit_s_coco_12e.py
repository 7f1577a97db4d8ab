# DINO with four levels for 12 epochs.
_base_ = [
    "../_base_/models/dino.py",
    "../_base_/datasets/coco_detection_detr.py",
    "../_base_/schedules/detr_12e.py",
    "../_base_/runtime/detection.py",
]
