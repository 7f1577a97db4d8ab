# 12 epochs at 16 images a step as DINO is trained: little weight decay, tight clipping, one step down.
_base_ = "adamw_1x.py"
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), clip_grad=dict(max_norm=0.1))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], milestones=[11])]
