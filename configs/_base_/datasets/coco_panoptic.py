# COCO 2017 panoptic in the official layout under data/coco, under large-scale jitter.
_base_ = "coco_instance_jitter.py"
data_root = _base_.data_root
panoptic = dict(type="LoadPanopticMaps", with_bbox=True)
# Images without any thing are left out, as COCO's others without a box are (filter_empty_gt). A crop that shows stuff
# alone is worth learning, so FilterAnnotations, which would draw another, goes.
train_pipeline = [
    panoptic if step["type"] == "LoadLateMasks" else step
    for step in _base_.train_pipeline
    if step["type"] != "FilterAnnotations"
]
train_dataloader = dict(
    dataset=dict(
        type="CocoPanopticDataset",
        ann_file="annotations/panoptic_train2017.json",
        data_prefix=dict(seg="annotations/panoptic_train2017/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="CocoPanopticDataset",
        ann_file="annotations/panoptic_val2017.json",
        data_prefix=dict(seg="annotations/panoptic_val2017/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type="PanopticQualityMetric",
        ann_file=data_root + "annotations/panoptic_val2017.json",
        seg_prefix=data_root + "annotations/panoptic_val2017/",
    ),
    _base_.val_evaluator,
]
test_evaluator = val_evaluator
del panoptic
