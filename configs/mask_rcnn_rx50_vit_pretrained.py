# The flagship from pretrained trunks, as it should be trained where the network reaches them (docs/weights.md):
#   tools/dist_train.sh configs/mask_rcnn_rx50_vit_pretrained.py 8
_base_ = "mask_rcnn_rx50_vit.py"
model = dict(
    backbone=dict(
        # The CNN's pretrained statistics stay: two images a GPU are too few to estimate better ones.
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type="TrunkPretrained",
            cnn="torchvision://resnext50_32x4d",
            vit="timm://vit_small_patch16_224.augreg_in21k",
        ),
    )
)
# Rates as others train such trunks: the ViT's fall by 0.7 a block (ViTDet-B), the CNN is at a tenth (DETR) and falls by
# 0.95 a stage (Mask R-CNN with ConvNeXt-T). docs/rates.md has them all.
optim_wrapper = dict(constructor="HybridLayerDecay", paramwise_cfg=dict(layer_decay=dict(cnn=0.95, vit=0.7), cnn=0.1))
