# Mask2Former on Cityscapes for 90,000 steps.
_base_ = [
    "../_base_/models/mask2former_semantic.py",
    "../_base_/datasets/cityscapes.py",
    "../_base_/schedules/queries_90k.py",
    "../_base_/runtime/segmentation_by_iter.py",
]
model = dict(decode_head=dict(num_classes=19, loss_cls=dict(class_weight=[1.0] * 19 + [0.1])))
