# CIFAR-10, the ViT alone.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.small_vit, _delete_=True))
