# COCO boxes at 640×640 as RTMDet takes them (Lyu et al. 2022, section 3.4): mosaic and mix-up from a cache, and
# `last_pipeline` without them for the last epochs.
_base_ = "coco_detection.py"
image_size = (640, 640)
load, annotate, _, flip, pack = _base_.train_pipeline
pad = dict(type="Pad", size=image_size, pad_val=dict(img=(114, 114, 114)))
rescale = dict(type="RandomResize", scale=(1280, 1280), ratio_range=(0.1, 2.0), keep_ratio=True)
finish = [dict(type="RandomCrop", crop_size=image_size), dict(type="YOLOXHSVRandomAug"), flip, pad]
train_pipeline = [
    load,
    annotate,
    dict(type="CachedMosaic", img_scale=image_size, pad_val=114.0),
    rescale,
    *finish,
    dict(
        type="CachedMixUp", img_scale=image_size, ratio_range=(1.0, 1.0), max_cached_images=20, pad_val=(114, 114, 114)
    ),
    pack,
]
last_pipeline = [load, annotate, dict(rescale, scale=image_size), *finish, pack]
test_pipeline = [load, dict(type="Resize", scale=image_size, keep_ratio=True), pad, _base_.test_pipeline[-1]]
train_dataloader = dict(batch_size=8, num_workers=4, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del image_size, load, annotate, _, flip, pack, pad, rescale, finish
