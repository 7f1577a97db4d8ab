# A plain ResNeXt-50 and a mask transformer on Cityscapes for 80,000 steps.
_base_ = [
    "../_base_/models/segmenter.py",
    "../_base_/datasets/cityscapes.py",
    "../_base_/schedules/adamw_poly_80k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=19))
