average = dict(
    ema_type='MomentumAnnealingEMA',
    gamma=10,
    momentum=0.002,
    type='EMAHook',
    update_buffers=True)
cnn = dict(
    drop_path_rate=0.1,
    native_size=24,
    type='PlainResNeXt',
    variant=dict(
        cnn=dict(blocks=(
            1,
            2,
            3,
            2,
        ), group_width=64, groups=2, width=24),
        vit='pico'))
custom_hooks = [
    dict(type='MetricsReportHook'),
    dict(dtype='bfloat16', type='AutocastHook'),
    dict(type='SignalHook'),
    dict(type='SicknessHook'),
    dict(type='WatchdogHook'),
    dict(type='BatchSizeHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'hybrid_dense',
    ])
data_root = '$HYBRID_DENSE_DATA/cifar10/'
default_hooks = dict(
    checkpoint=dict(
        interval=1,
        max_keep_ckpts=1,
        rule='greater',
        save_best=None,
        type='AtomicCheckpointHook'),
    logger=dict(ignore_last=False, interval=100, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmengine'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
epochs = 22
find_unused_parameters = True
halves = dict(
    cnn=dict(blocks=(
        1,
        2,
        2,
        1,
    ), group_width=64, groups=2, width=24),
    vit=dict(depth=4, dim=144, heads=4))
hybrid = dict(
    drop_path_rate=0.1,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='InterleavedResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            2,
            2,
            1,
        ), group_width=64, groups=2, width=24),
        vit=dict(depth=4, dim=144, heads=4)))
launcher = 'pytorch'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=100)
model = dict(
    backbone=dict(
        deep_stem=True,
        drop_path_rate=0.0,
        fusion=dict(type='AddFusion'),
        fusion_stages='late',
        global_attention='full',
        native_size=24,
        type='InterleavedResNeXtViT',
        variant=dict(
            cnn=dict(blocks=(
                1,
                1,
                1,
                1,
            ), expansion=1, width=48),
            vit=dict(depth=4, dim=96, heads=4))),
    data_preprocessor=dict(
        mean=[
            125.3,
            123.0,
            113.9,
        ],
        shift=4,
        sizes=[
            48,
            48,
            48,
            64,
        ],
        std=[
            63.0,
            62.1,
            66.7,
        ],
        type='BatchImages'),
    in_channels=384,
    label_smoothing=0.1,
    num_classes=10,
    type='ImageClassifier')
model_wrapper_cfg = dict(
    device_ids=None,
    find_unused_parameters=True,
    type='MMDistributedDataParallel')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0, norm_type=2),
    optimizer=dict(fused=True, lr=0.004, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        bypass_duplicate=True,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0)),
        norm_decay_mult=0.0),
    type='GuardedOptimWrapper')
options = dict(drop_path_rate=0.1, native_size=24)
parallel = dict(
    drop_path_rate=0.1,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='ParallelResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            2,
            2,
            1,
        ), group_width=64, groups=2, width=24),
        vit=dict(depth=4, dim=144, heads=4)))
param_scheduler = [
    dict(begin=0, by_epoch=False, end=600, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=22,
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=22,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resnext = dict(group_width=64, groups=2, width=24)
resume = False
serial = dict(
    drop_path_rate=0.1,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='SerialResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            2,
            2,
            1,
        ), group_width=64, groups=2, width=24),
        vit=dict(depth=4, dim=144, heads=4)))
short = dict(deep_stem=True, drop_path_rate=0.0)
small = dict(expansion=1, width=48)
small_cnn = dict(
    deep_stem=True,
    drop_path_rate=0.0,
    native_size=24,
    type='PlainResNeXt',
    variant=dict(
        cnn=dict(blocks=(
            1,
            1,
            2,
            1,
        ), expansion=1, width=48), vit='pico'))
small_hybrid = dict(
    deep_stem=True,
    drop_path_rate=0.0,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='InterleavedResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            1,
            1,
            1,
        ), expansion=1, width=48),
        vit=dict(depth=4, dim=96, heads=4)))
small_vit = dict(
    deep_stem=True,
    drop_path_rate=0.0,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=184, heads=4)))
sync_bn = None
test_cfg = dict(type='OverlappedTestLoop')
test_dataloader = dict(
    batch_size=250,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_root='$HYBRID_DENSE_DATA/cifar10/', split='test', type='CIFAR10'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(type='ClassificationMetric')
train_cfg = dict(max_epochs=22, type='ExactEpochLoop', val_interval=4)
train_dataloader = dict(
    batch_size=64,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_root='$HYBRID_DENSE_DATA/cifar10/', split='train', type='CIFAR10'),
    drop_last=True,
    num_workers=0,
    sampler=dict(shuffle=True, type='DefaultSampler'))
val_cfg = dict(type='OverlappedValLoop')
val_dataloader = dict(
    batch_size=250,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_root='$HYBRID_DENSE_DATA/cifar10/', split='test', type='CIFAR10'),
    num_workers=0,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(type='ClassificationMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='Visualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
vit = dict(
    drop_path_rate=0.1,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=192, heads=4)))
work_dir = 'work_dirs/study/cifar10/hybrid/seed0'
