# Faster R-CNN on PASCAL VOC 2007 and 2012 for 12 epochs.
_base_ = [
    "../_base_/models/faster_rcnn.py",
    "../_base_/datasets/voc0712.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/runtime/detection.py",
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
