# CamVid from scratch on a CPU: $HYBRID_DENSE_DATA/camvid or data/camvid, in lossless WebP; PNG by
#   --cfg-options {train,val,test}_dataloader.dataset.img_suffix=.png
# Semantic FPN of 48 channels, trained on crops and tested on whole images.
_base_ = [
    "../../_base_/models/fpn_head_nano.py",
    "../../_base_/datasets/camvid.py",
    "course.py",
    "../../_base_/runtime/segmentation.py",
]
data_root = "{{$HYBRID_DENSE_DATA:data}}/camvid/"
model = dict(
    data_preprocessor=dict(seg_pad_val=11),
    neck=dict(out_channels=48),
    decode_head=dict(
        in_channels=[48, 48, 48, 48],
        channels=48,
        num_classes=11,
        ignore_index=11,
        dropout_ratio=0.1,
        loss_decode=dict(
            avg_non_ignore=False,  # mmseg then divides by the weights of the pixels that count
            # (1 / log(1.1 + share of the pixels)) ** 0.5, of mean 1: softer than ENet's weights (Paszke et al. 2016,
            # section 5.1), with which rare classes are found where they are not.
            class_weight=[0.78, 0.71, 1.18, 0.64, 1.03, 0.89, 1.17, 1.18, 0.99, 1.2, 1.22],
        ),
    ),
)
# Small crops at many sizes first, which cost half as much; in the end large ones, as wholes are what is tested.
small = dict(RandomResize=dict(ratio_range=(0.5, 1.75)), RandomCrop=dict(crop_size=(192, 256)))
large = dict(RandomResize=dict(ratio_range=(0.75, 1.5)), RandomCrop=dict(crop_size=(288, 384)))
train_pipeline = [dict(step, **small.get(step["type"], {})) for step in _base_.train_pipeline]
later_pipeline = [dict(step, **large.get(step["type"], {})) for step in _base_.train_pipeline]
common = dict(data_root=data_root, img_suffix=".webp")
train_dataloader = dict(
    batch_size=4,  # of each of two processes
    num_workers=1,
    drop_last=True,
    sampler=dict(type="DefaultSampler"),
    dataset=dict(common, pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=common)
test_dataloader = val_dataloader
epochs = 150
train_cfg = dict(max_epochs=epochs, val_interval=15)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=epochs, T_max=epochs)]
custom_hooks = [
    *_base_.custom_hooks,
    _base_.average,
    dict(type="mmdet.PipelineSwitchHook", switch_epoch=132, switch_pipeline=later_pipeline),
]
default_hooks = dict(logger=dict(interval=46, ignore_last=False), checkpoint=dict(interval=3, max_keep_ckpts=1))
randomness = dict(seed=0)
del small, large, later_pipeline, common
