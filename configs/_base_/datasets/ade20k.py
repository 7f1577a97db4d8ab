# ADE20K (Zhou et al. 2017), 150 classes, in the layout of the scene-parsing challenge. Its label 0
# (other) is ignored.
_base_ = "semantic.py"
data_root = "data/ade/ADEChallengeData2016/"
train_dataloader = dict(
    dataset=dict(
        type="ADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
    )
)
val_dataloader = dict(
    dataset=dict(
        type="ADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
    )
)
test_dataloader = val_dataloader
