# Mask R-CNN small enough to learn on a CPU in minutes: 64 channels in neck and heads, normalised for training from
# scratch.
_base_ = "mask_rcnn.py"
model = dict(
    backbone=dict(variant="rxnano_vit_pico", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm="BN"),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        # One sample a bin: RoIAlign runs on a single core, and four would make it the slowest part of the model.
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type="ConvFCBBoxHead",
            num_shared_convs=1,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=dict(type="GN", num_groups=8),
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(in_channels=64, conv_out_channels=32, num_convs=2, class_agnostic=True),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=50),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=50)),
)
