# What mmdet's detectors have in common here: ImageNet's mean and deviation, images padded to whole strides, a pyramid.
_base_ = "hybrid.py"
model = dict(
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    neck=dict(type="HybridFPN", in_channels="backbone.out_channels", out_channels=256, num_outs=5),
)
