# SegFormer's head (Xie et al. 2021, section 3.2): every level through a linear layer, up to stride 4, and one more.
_base_ = "segmentor.py"
model = dict(
    decode_head=dict(
        type="SegformerHead",
        in_channels="backbone.out_channels",
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True),
    )
)
