# Does the COCO pipeline learn? A Mask R-CNN on an rx26 hybrid fits fifty images, on which it is tested too.
_base_ = "../../tiny_coco_overfit.py"
model = dict(backbone=dict(variant="rx26_vit_pico"))
randomness = dict(seed=0)
