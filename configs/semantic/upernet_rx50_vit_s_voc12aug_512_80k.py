# UPerNet on PASCAL VOC 2012 (augmented) for 80,000 steps.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/voc12aug.py",
    "../_base_/schedules/adamw_poly_80k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))
