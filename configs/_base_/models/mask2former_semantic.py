# Mask2Former in mmseg, whose head is mmdet's.
_base_ = ["segmentor.py", "mask2former_head.py"]
model = dict(
    decode_head=dict(
        _base_.query_head,
        in_channels="backbone.out_channels",
        num_classes=150,
        align_corners=False,
        loss_cls=dict(_base_.query_head.loss_cls, class_weight=[1.0] * 150 + [0.1]),
        train_cfg=_base_.query_training,
    )
)
