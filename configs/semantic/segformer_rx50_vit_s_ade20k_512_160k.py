# SegFormer's MLP head on ADE20K for 160,000 steps.
_base_ = [
    "../_base_/models/segformer.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_poly_160k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))  # as SegFormer does
