# BCCD, the ViT alone.
_base_ = ["../_base_/bccd.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.vit, _delete_=True))
