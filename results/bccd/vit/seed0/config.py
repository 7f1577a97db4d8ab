average = dict(
    ema_type='MomentumAnnealingEMA',
    gamma=10,
    momentum=0.002,
    type='EMAHook',
    update_buffers=True)
classes = (
    'RBC',
    'WBC',
    'Platelets',
)
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
        switch_epoch=30,
        switch_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.7,
                    1.4,
                ),
                scale=(
                    416,
                    320,
                ),
                type='RandomResize'),
            dict(crop_size=(
                320,
                416,
            ), type='RandomCrop'),
            dict(min_gt_bbox_wh=(
                2,
                2,
            ), type='FilterAnnotations'),
            dict(
                direction=[
                    'horizontal',
                    'vertical',
                    'diagonal',
                ],
                prob=[
                    0.25,
                    0.25,
                    0.25,
                ],
                type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(
                pad_val=dict(img=(
                    114,
                    114,
                    114,
                )),
                size=(
                    416,
                    320,
                ),
                type='Pad'),
            dict(type='PackDetInputs'),
        ],
        type='PipelineSwitchHook'),
    dict(type='MetricsReportHook'),
    dict(dtype='bfloat16', type='AutocastHook'),
    dict(type='SignalHook'),
    dict(type='SicknessHook'),
    dict(type='WatchdogHook'),
    dict(type='BatchSizeHook'),
]
custom_imports = dict(
    allow_failed_imports=True,
    imports=[
        'hybrid_dense',
        'hybrid_dense.data.late_masks_mmdet',
        'hybrid_dense.data.panoptic_mmdet',
        'hybrid_dense.data.reduced_decode_mmdet',
        'hybrid_dense.evaluation.coco_mmdet',
        'hybrid_dense.evaluation.voc_mmdet',
    ])
data_root = '$HYBRID_DENSE_DATA/bccd/'
default_hooks = dict(
    checkpoint=dict(
        interval=3,
        max_keep_ckpts=1,
        rule='greater',
        save_best='auto',
        type='AtomicCheckpointHook'),
    logger=dict(ignore_last=False, interval=25, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmdet'
dense = dict(width=32)
dense_cnn = dict(
    drop_path_rate=0.0,
    native_size=24,
    type='PlainResNeXt',
    variant=dict(cnn=dict(blocks=(
        2,
        2,
        2,
        2,
    ), width=32), vit='pico'))
dense_hybrid = dict(
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
        ), width=32),
        vit=dict(depth=4, dim=144, heads=4)))
dense_vit = dict(
    drop_path_rate=0.0,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=184, heads=4)))
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
epochs = 44
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
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        native_size=24,
        type='PlainViT',
        variant=dict(cnn='rxnano', vit=dict(depth=8, dim=192, heads=4))),
    bbox_head=dict(
        act_cfg=dict(inplace=True, type='SiLU'),
        anchor_generator=dict(
            offset=0, strides=[
                8,
                16,
                32,
            ], type='MlvlPointGenerator'),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        exp_on_reg=True,
        feat_channels=64,
        in_channels=64,
        loss_bbox=dict(loss_weight=2.0, type='GIoULoss'),
        loss_cls=dict(
            beta=2.0,
            loss_weight=1.0,
            type='QualityFocalLoss',
            use_sigmoid=True),
        norm_cfg=dict(type='BN'),
        num_classes=3,
        pred_kernel_size=1,
        share_conv=True,
        stacked_convs=2,
        type='RTMDetSepBNHead',
        with_objectness=False),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='DetDataPreprocessor'),
    neck=dict(
        bottom_up=True,
        in_channels=[
            48,
            96,
            192,
            192,
        ],
        norm='BN',
        num_outs=3,
        out_channels=64,
        start_level=1,
        type='HybridFPN'),
    test_cfg=dict(
        max_per_img=300,
        min_bbox_size=0,
        nms=dict(iou_threshold=0.65, type='nms'),
        nms_pre=1000,
        score_thr=0.001),
    train_cfg=dict(
        allowed_border=-1,
        assigner=dict(topk=13, type='DynamicSoftLabelAssigner'),
        debug=False,
        pos_weight=-1),
    type='RTMDet',
    use_syncbn=False)
model_wrapper_cfg = dict(
    device_ids=None,
    find_unused_parameters=True,
    type='MMDistributedDataParallel')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0, norm_type=2),
    optimizer=dict(fused=True, lr=0.0012, type='AdamW', weight_decay=0.05),
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
    dict(begin=0, by_epoch=False, end=200, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=44,
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=44,
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
short = dict(drop_path_rate=0.0)
sync_bn = None
test_cfg = dict(type='OverlappedTestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        data_root='$HYBRID_DENSE_DATA/bccd/',
        metainfo=dict(classes=(
            'RBC',
            'WBC',
            'Platelets',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                416,
                320,
            ), type='Resize'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs'),
        ],
        test_mode=True,
        type='VOCDataset'),
    drop_last=False,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    eval_mode='area',
    iou_thrs=[
        0.5,
        0.55,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.95,
    ],
    type='DetailedVOCMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(
        416,
        320,
    ), type='Resize'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
        type='PackDetInputs'),
]
train_cfg = dict(max_epochs=44, type='ExactEpochLoop', val_interval=11)
train_dataloader = dict(
    batch_sampler=None,
    batch_size=2,
    dataset=dict(
        ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        data_root='$HYBRID_DENSE_DATA/bccd/',
        metainfo=dict(classes=(
            'RBC',
            'WBC',
            'Platelets',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.6,
                    1.1,
                ),
                scale=(
                    416,
                    320,
                ),
                type='RandomResize'),
            dict(crop_size=(
                240,
                320,
            ), type='RandomCrop'),
            dict(min_gt_bbox_wh=(
                2,
                2,
            ), type='FilterAnnotations'),
            dict(
                direction=[
                    'horizontal',
                    'vertical',
                    'diagonal',
                ],
                prob=[
                    0.25,
                    0.25,
                    0.25,
                ],
                type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(
                pad_val=dict(img=(
                    114,
                    114,
                    114,
                )),
                size=(
                    320,
                    256,
                ),
                type='Pad'),
            dict(type='PackDetInputs'),
        ],
        type='VOCDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        keep_ratio=True,
        ratio_range=(
            0.6,
            1.1,
        ),
        scale=(
            416,
            320,
        ),
        type='RandomResize'),
    dict(crop_size=(
        240,
        320,
    ), type='RandomCrop'),
    dict(min_gt_bbox_wh=(
        2,
        2,
    ), type='FilterAnnotations'),
    dict(
        direction=[
            'horizontal',
            'vertical',
            'diagonal',
        ],
        prob=[
            0.25,
            0.25,
            0.25,
        ],
        type='RandomFlip'),
    dict(type='PhotoMetricDistortion'),
    dict(pad_val=dict(img=(
        114,
        114,
        114,
    )), size=(
        320,
        256,
    ), type='Pad'),
    dict(type='PackDetInputs'),
]
val_cfg = dict(type='OverlappedValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        data_root='$HYBRID_DENSE_DATA/bccd/',
        metainfo=dict(classes=(
            'RBC',
            'WBC',
            'Platelets',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(keep_ratio=True, scale=(
                416,
                320,
            ), type='Resize'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs'),
        ],
        test_mode=True,
        type='VOCDataset'),
    drop_last=False,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    eval_mode='area',
    iou_thrs=[
        0.5,
        0.55,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
        0.95,
    ],
    type='DetailedVOCMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='DetLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
vit = dict(
    drop_path_rate=0.1,
    native_size=24,
    type='PlainViT',
    variant=dict(cnn='rxnano', vit=dict(depth=8, dim=192, heads=4)))
work_dir = 'work_dirs/study/bccd/vit/seed0'
