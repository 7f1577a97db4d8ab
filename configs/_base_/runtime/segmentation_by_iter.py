# For trainings that count steps and not epochs. A GPU holds few crops, so BatchNorm looks at those of all GPUs.
_base_ = "segmentation.py"
sync_bn = "torch"
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000),
)
log_processor = dict(by_epoch=False)
