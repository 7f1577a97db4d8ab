# CamVid, the ViT on C4's positions, between the third stage and the last.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.serial, _delete_=True))
