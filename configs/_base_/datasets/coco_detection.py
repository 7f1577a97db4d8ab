# COCO 2017 in the official layout under data/coco; boxes, evaluated by faster-coco-eval. pycocotools gives the same
# figures: --cfg-options val_evaluator.backend=pycocotools test_evaluator.backend=pycocotools
_base_ = "detection.py"
data_root = "data/coco/"
train_dataloader = dict(
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    )
)
val_dataloader = dict(
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="DetailedCocoMetric", ann_file=data_root + "annotations/instances_val2017.json", metric="bbox"
)
test_evaluator = val_evaluator
