# SegFormer's MLP head on PASCAL VOC 2012 (augmented) for 80,000 steps.
_base_ = [
    "../_base_/models/segformer.py",
    "../_base_/datasets/voc12aug.py",
    "../_base_/schedules/adamw_poly_80k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=21))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))  # as SegFormer does
