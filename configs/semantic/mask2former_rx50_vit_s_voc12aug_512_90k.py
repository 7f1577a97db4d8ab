# Mask2Former on PASCAL VOC 2012 (augmented) for 90,000 steps.
_base_ = [
    "../_base_/models/mask2former_semantic.py",
    "../_base_/datasets/voc12aug.py",
    "../_base_/schedules/queries_90k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=21, loss_cls=dict(class_weight=[1.0] * 21 + [0.1])))
