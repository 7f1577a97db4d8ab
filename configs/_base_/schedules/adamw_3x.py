# 36 epochs, a tenth of the rate after epochs 27 and 33.
_base_ = "adamw_1x.py"
train_cfg = dict(max_epochs=36, val_interval=3)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=36, milestones=[27, 33])]
