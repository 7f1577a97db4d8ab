# RetinaNet on PASCAL VOC 2007 and 2012 for 12 epochs.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/datasets/voc0712.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/runtime/detection.py",
]
model = dict(bbox_head=dict(num_classes=20))
