default_scope = "mmdet"
# So that mmdet's own tools know what is ours. A host that is missing is named by the commands, more clearly than here.
custom_imports = dict(
    imports=[
        "hybrid_dense",
        "hybrid_dense.data.late_masks_mmdet",
        "hybrid_dense.data.panoptic_mmdet",
        "hybrid_dense.data.reduced_decode_mmdet",
        "hybrid_dense.evaluation.coco_mmdet",
        "hybrid_dense.evaluation.voc_mmdet",
    ],
    allow_failed_imports=True,
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3, save_best="auto", rule="greater"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
# A GPU holds few images, so BatchNorm looks at those of all GPUs. The commands leave it plain where there is no GPU.
sync_bn = "torch"
# bfloat16 wherever the hardware computes it, GPU or CPU.
custom_hooks = [dict(type="AutocastHook")]
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
load_from = None
resume = False
