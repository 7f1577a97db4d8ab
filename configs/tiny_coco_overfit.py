# Does everything learn? The images of tiny_coco that it trains on are also those that it is tested on, never mirrored.
_base_ = "tiny_coco.py"
data_root = _base_.data_root
trained_on = dict(ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/"))
pipeline = [step for step in _base_.train_pipeline if step["type"] != "RandomFlip"]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=trained_on)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + trained_on["ann_file"])
test_evaluator = val_evaluator
