# 50 epochs at 16 images a step as Mask2Former is trained: very tight clipping, no weight decay on its queries.
_base_ = "adamw_1x.py"
train_cfg = dict(max_epochs=50, val_interval=5)
optim_wrapper = dict(
    clip_grad=dict(max_norm=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(
            query_embed=dict(decay_mult=0.0), query_feat=dict(decay_mult=0.0), level_embed=dict(decay_mult=0.0)
        )
    ),
)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=50, milestones=[44, 48])]
