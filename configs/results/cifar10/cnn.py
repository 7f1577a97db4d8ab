# CIFAR-10, the CNN alone: a ResNet, since its blocks are basic ones.
_base_ = ["../_base_/cifar10.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.small_cnn, _delete_=True))
