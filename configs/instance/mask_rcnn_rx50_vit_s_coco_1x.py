# Mask R-CNN for 12 epochs: the flagship, under its name in the zoo.
_base_ = "../mask_rcnn_rx50_vit.py"
