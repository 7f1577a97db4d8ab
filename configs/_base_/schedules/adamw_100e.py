# 100 epochs at 64 images a step, for large-scale jitter: a tenth of the rate after epochs 89 and 96.
_base_ = "adamw_1x.py"
train_cfg = dict(max_epochs=100, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=100, milestones=[89, 96])]
auto_scale_lr = dict(base_batch_size=64)
