# 300 epochs at 64 images a step: a high rate for the first half, then a cosine down to a twentieth.
_base_ = "adamw_1x.py"
train_cfg = dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)])
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(bypass_duplicate=True), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type="CosineAnnealingLR",
        eta_min=5e-5,
        begin=150,
        end=300,
        T_max=150,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=64)
