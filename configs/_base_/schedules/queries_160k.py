# 160,000 steps.
_base_ = "queries_90k.py"
train_cfg = dict(max_iters=160000, val_interval=8000)
param_scheduler = [dict(_base_.param_scheduler[0], end=160000)]
