# CamVid, the ResNeXt alone.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_cnn, _delete_=True))
