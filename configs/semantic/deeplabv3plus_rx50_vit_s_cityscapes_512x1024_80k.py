# DeepLabV3+ on Cityscapes for 80,000 steps.
_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/cityscapes.py",
    "../_base_/schedules/adamw_poly_80k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=19), auxiliary_head=dict(num_classes=19))
