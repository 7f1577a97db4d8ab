# Mask2Former for instances: COCO's 80 things and nothing behind them.
_base_ = "mask2former_panoptic.py"
model = dict(
    data_preprocessor=dict(
        pad_seg=False, batch_augments=[dict(_base_.model.data_preprocessor.batch_augments[0], pad_seg=False)]
    ),
    panoptic_head=dict(num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * 80 + [0.1])),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False),
)
