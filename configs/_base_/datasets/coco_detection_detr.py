# COCO boxes as DETR takes them (Carion et al. 2020): many scales, half of the images cropped in between.
_base_ = "coco_detection.py"
scales = [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
resize = dict(type="RandomChoiceResize", scales=scales, keep_ratio=True)
crop = [
    dict(type="RandomChoiceResize", scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
]
load, annotate, _, flip, pack = _base_.train_pipeline
train_pipeline = [
    load,
    annotate,
    flip,
    dict(type="RandomChoice", transforms=[[resize], [*crop, resize]]),
    pack,
]
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
del scales, resize, crop, load, annotate, _, flip, pack
