# What RetinaNet, FCOS and ATSS have in common: levels of strides 8 to 128 and heads that share their weights over them.
_base_ = "detector.py"
model = dict(
    neck=dict(start_level=1, extra_levels="conv"),
    bbox_head=dict(
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    ),
    train_cfg=dict(allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)
