# CamVid, the ViT alone.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_vit, _delete_=True))
