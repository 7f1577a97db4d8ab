# DeepLabV3+ (Chen et al. 2018) at output stride 16: the CNN's last stage is dilated, and C2 sharpens the edges.
_base_ = "upernet.py"
model = dict(
    backbone=dict(output_stride=16),
    decode_head=dict(
        _delete_=True,
        type="DepthwiseSeparableASPPHead",
        in_channels="backbone.out_channels[3]",
        in_index=3,
        channels=512,
        dilations=(1, 6, 12, 18),
        c1_in_channels="backbone.out_channels[0]",
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=_base_.model.decode_head.norm_cfg,
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode,
    ),
)
