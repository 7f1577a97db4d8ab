# Mask2Former in mmdet, for COCO's 80 things and 53 stuff classes.
_base_ = ["detector.py", "mask2former_head.py"]
things, stuff = 80, 53
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=True,
        seg_pad_value=255,
        # In training: every batch has the size of a whole crop (large-scale jitter crops no more than there is).
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True, pad_seg=True)],
    ),
    neck=None,
    panoptic_head=dict(
        _base_.query_head,
        in_channels="backbone.out_channels",
        num_things_classes=things,
        num_stuff_classes=stuff,
        loss_cls=dict(_base_.query_head.loss_cls, class_weight=[1.0] * (things + stuff) + [0.1]),
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead",
        num_things_classes=things,
        num_stuff_classes=stuff,
        loss_panoptic=None,
        init_cfg=None,
    ),
    train_cfg=_base_.query_training,
    test_cfg=dict(
        panoptic_on=True,
        semantic_on=False,  # mmdet has no metric for it
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
del things, stuff
