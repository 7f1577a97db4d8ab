# CamVid, the ViT on the image itself, beside the CNN.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.parallel, _delete_=True))
