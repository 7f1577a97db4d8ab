# CIFAR-10, the CNN alone: a ResNet, since its blocks are basic ones.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_cnn, drop_path_rate=0.0, _delete_=True))
