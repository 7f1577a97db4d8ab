# CIFAR-10 from scratch on a CPU: $HYBRID_DENSE_DATA/cifar10 or data/cifar10. Images are enlarged, so that backbones of
# strides 4 to 32 have something to see: to 48 pixels, which cost less, and in the last quarter to 64.
_base_ = ["course.py", "../../_base_/runtime/detection.py"]
default_scope = "mmengine"
custom_imports = dict(imports=["hybrid_dense"], allow_failed_imports=False)
visualizer = dict(type="Visualizer")
sync_bn = None
data_root = "{{$HYBRID_DENSE_DATA:data}}/cifar10/"
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="BatchImages",
        mean=[125.3, 123.0, 113.9],
        std=[63.0, 62.1, 66.7],
        sizes=[48, 48, 48, 64],
        shift=4,
    ),
    backbone=dict(),
    in_channels="backbone.out_channels[-1]",
    num_classes=10,
    label_smoothing=0.1,
)
train_dataloader = dict(
    batch_size=64,  # of each of two processes
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="CIFAR10", data_root=data_root, split="train"),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="CIFAR10", data_root=data_root, split="test"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ClassificationMetric")
test_evaluator = val_evaluator
find_unused_parameters = True  # a plain ViT's finest maps are not read
epochs = 22
train_cfg = dict(max_epochs=epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=600),
    dict(_base_.param_scheduler[1], end=epochs, T_max=epochs),
]
log_processor = dict(window_size=100)
default_hooks = dict(logger=dict(interval=100, ignore_last=False), checkpoint=dict(save_best=None, max_keep_ckpts=1))
randomness = dict(seed=0)
