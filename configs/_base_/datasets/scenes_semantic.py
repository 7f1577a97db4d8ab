# The embedded scenes as label maps: background and six shapes.
_base_ = "scenes.py"
metainfo = dict(classes=("background", "disk", "square", "triangle", "star", "ring", "cross"))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=[0.25, 0.25], direction=["horizontal", "vertical"]),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_prefix=dict(img_path="train/", seg_map_path="train_labels/"),
        metainfo=metainfo,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_prefix=dict(img_path="val/", seg_map_path="val_labels/"),
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DetailedIoUMetric")
test_evaluator = val_evaluator
