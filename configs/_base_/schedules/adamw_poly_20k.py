# 20,000 steps.
_base_ = "adamw_poly_80k.py"
train_cfg = dict(max_iters=20000, val_interval=2000)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=20000)]
