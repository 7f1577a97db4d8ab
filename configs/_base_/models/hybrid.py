# The backbone of every model here. Change it by --cfg-options model.backbone.variant=… model.backbone.type=…
# model.backbone.fusion.type=…: whatever follows it takes its channels from "backbone.out_channels" (docs/configs.md).
model = dict(
    backbone=dict(
        type="ParallelResNeXtViT",
        variant="rx50_vit_s",
        fusion=dict(type="GatedFusion", direction="both"),
        drop_path_rate=0.1,
    )
)
