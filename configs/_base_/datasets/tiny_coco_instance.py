# A small folder in the COCO layout, with images small enough for a CPU: $HYBRID_DENSE_DATA/tiny_coco or data/tiny_coco.
_base_ = "coco_instance.py"
data_root = "{{$HYBRID_DENSE_DATA:data}}/tiny_coco/"
scale = (288, 208)
train_pipeline = [dict(step, scale=scale) if step["type"] == "Resize" else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step["type"] == "Resize" else step for step in _base_.test_pipeline]
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
del scale
