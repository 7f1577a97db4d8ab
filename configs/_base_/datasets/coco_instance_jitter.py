# COCO instances under large-scale jitter (Ghiasi et al. 2021): a tenth to twice of 1024 pixels, then a crop of 1024.
_base_ = "coco_instance.py"
image_size = (1024, 1024)
jitter = [
    dict(type="RandomResize", scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
]
clean = dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2), by_mask=True)
load, annotate, _, flip, pack = _base_.train_pipeline
train_pipeline = [load, annotate, flip, *jitter, clean, pack]
# Crops have one size, or nearly: no need to sort them by aspect ratio.
train_dataloader = dict(batch_sampler=None, dataset=dict(pipeline=train_pipeline))
del image_size, jitter, clean, load, annotate, _, flip, pack
