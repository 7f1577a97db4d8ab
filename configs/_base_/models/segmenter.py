# A plain ResNeXt as encoder, at output stride 16, and Segmenter's mask transformer as decoder (Strudel et al. 2021,
# section 3.2): a token for every class beside those of the image.
_base_ = "segmentor.py"
model = dict(
    backbone=dict(type="PlainResNeXt", output_stride=16),
    decode_head=dict(
        type="SegmenterMaskTransformerHead",
        in_channels="backbone.out_channels[3]",
        in_index=3,
        channels=384,
        embed_dims=384,
        num_layers=2,
        num_heads=6,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True),
    ),
)
