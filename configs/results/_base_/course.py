# How all of them are trained, from scratch: AdamW, warm-up, cosine to zero, no decay of norms, biases and positions.
_base_ = "../../_base_/schedules/adamw_cosine_short.py"
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"pos_embed": dict(decay_mult=0.0)},
        bypass_duplicate=True,  # some heads use one convolution on all levels
    )
)
param_scheduler = [dict(_base_.param_scheduler[0], end=200), _base_.param_scheduler[1]]
# For the list of hooks of a task whose batches are few: the weights of about the last 500 steps, averaged.
average = dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.002, gamma=10, update_buffers=True)
