# PASCAL VOC boxes in the official layout, data/VOCdevkit/VOC2007 and VOC2012: trained on both trainval sets, tested on
# the test set of 2007 by the rule of that year (11 points; eval_mode="area" is that of 2010 and later).
_base_ = "detection.py"
data_root = "data/VOCdevkit/"
load, annotate, _, flip, pack = _base_.train_pipeline
resize = dict(type="Resize", scale=(1000, 600), keep_ratio=True)
train_pipeline = [load, annotate, resize, flip, pack]
# The metric takes the boxes from here: annotated behind Resize, they are in pixels of the file.
test_pipeline = [load, resize, annotate, _base_.test_pipeline[-1]]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        ignore_keys=["dataset_type"],  # the year, in which the two differ
        datasets=[
            dict(
                type="VOCDataset",
                data_root=data_root,
                ann_file=f"VOC{year}/ImageSets/Main/trainval.txt",
                data_prefix=dict(sub_data_root=f"VOC{year}/"),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline,
            )
            for year in (2007, 2012)
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        type="VOCDataset",
        data_root=data_root,
        ann_file="VOC2007/ImageSets/Main/test.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DetailedVOCMetric", eval_mode="11points")
test_evaluator = val_evaluator
del load, annotate, _, resize, flip, pack
