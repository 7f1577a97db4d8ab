# 90,000 steps as Mask2Former is trained: very tight clipping, no weight decay on its queries.
_base_ = "adamw_poly_80k.py"
train_cfg = dict(max_iters=90000, val_interval=5000)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys=dict(
            query_embed=dict(decay_mult=0.0), query_feat=dict(decay_mult=0.0), level_embed=dict(decay_mult=0.0)
        )
    ),
)
param_scheduler = [dict(_base_.param_scheduler[1], begin=0, end=90000, power=0.9)]
