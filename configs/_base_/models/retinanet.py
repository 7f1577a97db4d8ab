# RetinaNet (Lin et al. 2017): nine anchors a place, focal loss.
_base_ = "dense_detector.py"
model = dict(
    type="RetinaNet",
    neck=dict(extra_levels="conv_on_input"),
    bbox_head=dict(
        type="RetinaHead",
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),  # focal loss looks at every anchor
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
