# UPerNet on CamVid for 20,000 steps.
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/adamw_poly_20k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(
    data_preprocessor=dict(seg_pad_val=11),
    decode_head=dict(num_classes=11, ignore_index=11),
    auxiliary_head=dict(num_classes=11, ignore_index=11),
)
