# For trainings that count steps and not epochs.
_base_ = "segmentation.py"
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000),
)
log_processor = dict(by_epoch=False)
