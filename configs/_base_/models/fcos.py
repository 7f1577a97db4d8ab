# FCOS (Tian et al. 2019) with its later improvements: centre sampling, normalised boxes, GIoU.
_base_ = "dense_detector.py"
model = dict(
    type="FCOS",
    bbox_head=dict(
        type="FCOSHead",
        strides=[8, 16, 32, 64, 128],
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        conv_bias=True,
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
)
