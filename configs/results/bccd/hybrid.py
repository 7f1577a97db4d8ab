# BCCD, the hybrid.
_base_ = ["../_base_/bccd.py", "../_base_/backbones.py"]
model = dict(backbone=dict(_base_.hybrid, _delete_=True))
