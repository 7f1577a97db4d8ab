# DeepLabV3+ on ADE20K for 160,000 steps.
_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_poly_160k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
