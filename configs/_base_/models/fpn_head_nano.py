# Semantic FPN small enough to learn on a CPU in minutes: 64 channels in neck and head, normalised for training from
# scratch.
_base_ = "fpn_head.py"
model = dict(
    backbone=dict(variant="rxnano_vit_pico", drop_path_rate=0.0),
    neck=dict(out_channels=64, norm="BN"),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.0),
)
