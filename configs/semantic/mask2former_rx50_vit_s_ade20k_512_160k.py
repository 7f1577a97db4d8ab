# Mask2Former on ADE20K for 160,000 steps.
_base_ = [
    "../_base_/models/mask2former_semantic.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/queries_160k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
