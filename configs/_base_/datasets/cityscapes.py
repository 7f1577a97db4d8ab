# Cityscapes (Cordts et al. 2016), 19 classes, in the official layout with the *_labelTrainIds.png that
# cityscapesscripts writes; crops of 512×1024.
_base_ = "semantic.py"
data_root = "data/cityscapes/"
sizes = dict(
    Resize=dict(scale=(2048, 1024)), RandomResize=dict(scale=(2048, 1024)), RandomCrop=dict(crop_size=(512, 1024))
)
train_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.test_pipeline]
train_dataloader = dict(
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
del sizes
