# CamVid, the hybrid.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_hybrid, _delete_=True))
