# CIFAR-10, the hybrid.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.small_hybrid, _delete_=True))
