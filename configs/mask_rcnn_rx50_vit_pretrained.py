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
