average = dict(
    ema_type='MomentumAnnealingEMA',
    gamma=10,
    momentum=0.002,
    type='EMAHook',
    update_buffers=True)
basic = dict(expansion=1, width=48)
basic_cnn = dict(
    deep_stem=True,
    drop_path_rate=0.1,
    native_size=24,
    type='PlainResNeXt',
    variant=dict(
        cnn=dict(blocks=(
            1,
            1,
            2,
            1,
        ), expansion=1, width=48), vit='pico'))
basic_hybrid = dict(
    deep_stem=True,
    drop_path_rate=0.1,
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
basic_vit = dict(
    deep_stem=True,
    drop_path_rate=0.1,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=184, heads=4)))
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
    dict(
        ema_type='MomentumAnnealingEMA',
        gamma=10,
        momentum=0.002,
        type='EMAHook',
        update_buffers=True),
    dict(
        switch_epoch=132,
        switch_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.75,
                    1.5,
                ),
                scale=(
                    480,
                    360,
                ),
                type='RandomResize'),
            dict(
                cat_max_ratio=0.75,
                crop_size=(
                    288,
                    384,
                ),
                ignore_index=11,
                type='RandomCrop'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        type='mmdet.PipelineSwitchHook'),
    dict(type='MetricsReportHook'),
    dict(dtype='bfloat16', type='AutocastHook'),
    dict(type='SignalHook'),
    dict(type='SicknessHook'),
    dict(type='WatchdogHook'),
    dict(type='BatchSizeHook'),
    dict(type='BroadcastBuffersHook'),
]
custom_imports = dict(
    allow_failed_imports=True,
    imports=[
        'hybrid_dense',
        'hybrid_dense.evaluation.iou_mmseg',
        'hybrid_dense.evaluation.sliding_mmseg',
    ])
data_root = '$HYBRID_DENSE_DATA/camvid/'
default_hooks = dict(
    checkpoint=dict(
        interval=3,
        max_keep_ckpts=1,
        rule='greater',
        save_best='auto',
        type='AtomicCheckpointHook'),
    logger=dict(ignore_last=False, interval=46, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
epochs = 150
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
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
metainfo = dict(
    classes=(
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ))
model = dict(
    backbone=dict(
        deep_stem=True,
        drop_path_rate=0.1,
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
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=11,
        size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        test_cfg=dict(size_divisor=32),
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=48,
        dropout_ratio=0.1,
        feature_strides=[
            4,
            8,
            16,
            32,
        ],
        ignore_index=11,
        in_channels=[
            48,
            48,
            48,
            48,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(
            avg_non_ignore=False,
            class_weight=[
                0.78,
                0.71,
                1.18,
                0.64,
                1.03,
                0.89,
                1.17,
                1.18,
                0.99,
                1.2,
                1.22,
            ],
            loss_weight=1.0,
            type='CrossEntropyLoss',
            use_sigmoid=False),
        norm_cfg=dict(requires_grad=True, type='BN'),
        num_classes=11,
        type='FPNHead'),
    neck=dict(
        in_channels=[
            48,
            96,
            192,
            384,
        ],
        norm='BN',
        num_outs=4,
        out_channels=48,
        type='HybridFPN'),
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder')
model_wrapper_cfg = dict(
    broadcast_buffers=False,
    device_ids=None,
    find_unused_parameters=False,
    type='MMDistributedDataParallel')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0, norm_type=2),
    optimizer=dict(fused=True, lr=0.002, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        bypass_duplicate=True,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0)),
        norm_decay_mult=0.0),
    type='GuardedOptimWrapper')
options = dict(drop_path_rate=0.1, native_size=24)
parallel = dict(
    deep_stem=True,
    drop_path_rate=0.1,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='ParallelResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            1,
            1,
            1,
        ), expansion=1, width=48),
        vit=dict(depth=4, dim=96, heads=4)))
param_scheduler = [
    dict(begin=0, by_epoch=False, end=200, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=150,
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=150,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resnext = dict(group_width=64, groups=2, width=24)
resume = False
serial = dict(
    deep_stem=True,
    drop_path_rate=0.1,
    fusion=dict(type='AddFusion'),
    fusion_stages='late',
    global_attention='full',
    native_size=24,
    type='SerialResNeXtViT',
    variant=dict(
        cnn=dict(blocks=(
            1,
            1,
            1,
            1,
        ), expansion=1, width=48),
        vit=dict(depth=4, dim=96, heads=4)))
sync_bn = None
test_cfg = dict(type='OverlappedTestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='val', seg_map_path='valannot'),
        data_root='$HYBRID_DENSE_DATA/camvid/',
        ignore_index=11,
        img_suffix='.webp',
        metainfo=dict(
            classes=(
                'sky',
                'building',
                'pole',
                'road',
                'pavement',
                'tree',
                'sign',
                'fence',
                'car',
                'pedestrian',
                'bicyclist',
            )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                480,
                360,
            ), type='Resize'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        test_mode=True,
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(ignore_index=11, type='DetailedIoUMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        480,
        360,
    ), type='Resize'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_epochs=150, type='ExactEpochLoop', val_interval=15)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_prefix=dict(img_path='train', seg_map_path='trainannot'),
        data_root='$HYBRID_DENSE_DATA/camvid/',
        ignore_index=11,
        img_suffix='.webp',
        metainfo=dict(
            classes=(
                'sky',
                'building',
                'pole',
                'road',
                'pavement',
                'tree',
                'sign',
                'fence',
                'car',
                'pedestrian',
                'bicyclist',
            )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.5,
                    1.75,
                ),
                scale=(
                    480,
                    360,
                ),
                type='RandomResize'),
            dict(
                cat_max_ratio=0.75,
                crop_size=(
                    192,
                    256,
                ),
                ignore_index=11,
                type='RandomCrop'),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        type='BaseSegDataset'),
    drop_last=True,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        keep_ratio=True,
        ratio_range=(
            0.5,
            1.75,
        ),
        scale=(
            480,
            360,
        ),
        type='RandomResize'),
    dict(
        cat_max_ratio=0.75,
        crop_size=(
            192,
            256,
        ),
        ignore_index=11,
        type='RandomCrop'),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
val_cfg = dict(type='OverlappedValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='val', seg_map_path='valannot'),
        data_root='$HYBRID_DENSE_DATA/camvid/',
        ignore_index=11,
        img_suffix='.webp',
        metainfo=dict(
            classes=(
                'sky',
                'building',
                'pole',
                'road',
                'pavement',
                'tree',
                'sign',
                'fence',
                'car',
                'pedestrian',
                'bicyclist',
            )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                480,
                360,
            ), type='Resize'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        test_mode=True,
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(ignore_index=11, type='DetailedIoUMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
vit = dict(
    drop_path_rate=0.1,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=192, heads=4)))
work_dir = 'work_dirs/study/camvid/hybrid/seed0'
