# BCCD (blood cells, PASCAL VOC's layout) from scratch on a CPU: $HYBRID_DENSE_DATA/bccd or data/bccd, at 416×320
# pixels. RTMDet's head of 64 channels on strides 8, 16 and 32.
_base_ = [
    "../../_base_/models/rtmdet.py",
    "../../_base_/datasets/detection.py",
    "course.py",
    "../../_base_/runtime/detection.py",
]
data_root = "{{$HYBRID_DENSE_DATA:data}}/bccd/"
classes = ("RBC", "WBC", "Platelets")
size = (416, 320)
sync_bn = None
model = dict(
    neck=dict(out_channels=64),
    bbox_head=dict(num_classes=3, in_channels=64, feat_channels=64),
    test_cfg=dict(nms_pre=1000),
)
load, annotate, _, flip, pack = _base_.train_pipeline
train_pipeline = [
    load,
    annotate,
    dict(type="RandomResize", scale=size, ratio_range=(0.6, 1.1), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(240, 320)),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2)),  # two boxes of the data set have no size at all
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PhotoMetricDistortion"),
    dict(type="Pad", size=(320, 256), pad_val=dict(img=(114, 114, 114))),
    pack,
]
# Small crops of small images first: they cost half as much, while there is most to learn.
large = dict(RandomResize=dict(ratio_range=(0.7, 1.4)), RandomCrop=dict(crop_size=size[::-1]), Pad=dict(size=size))
later_pipeline = [dict(step, **large.get(step["type"], {})) for step in train_pipeline]
# The metric takes the boxes from here: annotated behind Resize, they are in pixels of the file.
test_pipeline = [load, dict(type="Resize", scale=size, keep_ratio=True), annotate, _base_.test_pipeline[-1]]
common = dict(
    type="VOCDataset", data_root=data_root, data_prefix=dict(sub_data_root=""), metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=2,  # of each of two processes
    num_workers=1,
    batch_sampler=None,
    dataset=dict(common, ann_file="ImageSets/Main/train.txt", pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1, dataset=dict(common, ann_file="ImageSets/Main/val.txt", test_mode=True, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="DetailedVOCMetric", eval_mode="area", iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
)
test_evaluator = val_evaluator
find_unused_parameters = True  # a plain ViT's finest maps are not read
epochs = 44
train_cfg = dict(max_epochs=epochs, val_interval=11)
optim_wrapper = dict(optimizer=dict(lr=1.2e-3))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=epochs, T_max=epochs)]
custom_hooks = [
    *_base_.custom_hooks,
    _base_.average,
    dict(type="PipelineSwitchHook", switch_epoch=30, switch_pipeline=later_pipeline),
]
default_hooks = dict(logger=dict(interval=25, ignore_last=False), checkpoint=dict(interval=3, max_keep_ckpts=1))
randomness = dict(seed=0)
del size, load, annotate, _, flip, pack, large, later_pipeline, common
