# Mask R-CNN, ResNeXt-50 and ViT-S joined by gates, on COCO for 12 epochs; meant for 8 GPUs × 2 images:
#   tools/dist_train.sh configs/mask_rcnn_rx50_vit.py 8
_base_ = [
    "_base_/models/mask_rcnn.py",
    "_base_/datasets/coco_instance.py",
    "_base_/schedules/adamw_1x.py",
    "_base_/runtime/detection.py",
]
