# A short training from scratch: AdamW, warm-up, cosine to zero.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=6, val_interval=3)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1.5e-3, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", begin=0, end=6, T_max=6, by_epoch=True, convert_to_iter_based=True),
]
