# COCO 2017 instances in the official layout under data/coco; boxes and masks.
_base_ = "coco_detection.py"
with_masks = dict(type="LoadLateMasks", with_bbox=True, with_mask=True)  # drawn after the crop
train_pipeline = [with_masks if step["type"] == "LoadAnnotations" else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator
del with_masks
