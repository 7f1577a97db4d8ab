# RTMDet's head at 640 pixels for 300 epochs, the last 20 without mosaic; meant for 8 GPUs × 8 images.
_base_ = [
    "../_base_/models/rtmdet.py",
    "../_base_/datasets/coco_detection_mosaic.py",
    "../_base_/schedules/rtmdet_300e.py",
    "../_base_/runtime/detection.py",
]
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=280, switch_pipeline=_base_.last_pipeline),
]
