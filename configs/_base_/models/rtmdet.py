# RTMDet (Lyu et al. 2022): its head and label assignment behind a pyramid with a bottom-up path, strides 8 to 32.
_base_ = "detector.py"
model = dict(
    type="RTMDet",
    use_syncbn=False,  # `sync_bn` in the runtime says so for every model, and leaves it where there is no GPU
    neck=dict(start_level=1, num_outs=3, bottom_up=True, norm="BN"),
    bbox_head=dict(
        type="RTMDetSepBNHead",
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        stacked_convs=2,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="SiLU", inplace=True),
    ),
    train_cfg=dict(
        assigner=dict(type="DynamicSoftLabelAssigner", topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=30000, min_bbox_size=0, score_thr=0.001, nms=dict(type="nms", iou_threshold=0.65), max_per_img=300
    ),
)
