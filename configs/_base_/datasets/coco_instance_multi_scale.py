# COCO instances, the short side drawn from 640 to 800 pixels.
_base_ = "coco_instance.py"
resize = dict(type="RandomResize", scale=[(1333, 640), (1333, 800)], keep_ratio=True)
train_pipeline = [resize if step["type"] == "Resize" else step for step in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
del resize
