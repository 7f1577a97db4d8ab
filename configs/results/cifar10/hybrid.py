# CIFAR-10, the hybrid.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_hybrid, drop_path_rate=0.0, _delete_=True))
