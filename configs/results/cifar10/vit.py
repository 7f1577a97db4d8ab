# CIFAR-10, the ViT alone.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_vit, drop_path_rate=0.0, _delete_=True))
