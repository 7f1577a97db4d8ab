# CamVid, the hybrid joined by cross-attention.
_base_ = ["../_base_/camvid.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.basic_hybrid, fusion=dict(type="CrossAttentionFusion"), _delete_=True))
