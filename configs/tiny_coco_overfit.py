# Does everything learn? The images of tiny_coco that it trains on are also those that it is tested on, never mirrored.
_base_ = "tiny_coco.py"
data_root = _base_.data_root
max_epochs = 110
train_cfg = dict(max_epochs=max_epochs, val_interval=55)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", begin=0, end=max_epochs, T_max=max_epochs, by_epoch=True, convert_to_iter_based=True
    ),
]
trained_on = dict(ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/"))
pipeline = [step for step in _base_.train_pipeline if step["type"] != "RandomFlip"]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=trained_on)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + trained_on["ann_file"])
test_evaluator = val_evaluator
