# CamVid (Brostow et al. 2009), 11 classes at 360×480, in SegNet's layout: data/camvid/{train,trainannot,val,valannot}.
# Label 11 is void: the heads of a model and the metric are told to ignore it (ignore_index=11), and padding gets it.
# Lossless copies: --cfg-options {train,val,test}_dataloader.dataset.img_suffix=.webp
_base_ = "semantic.py"
data_root = "data/camvid/"
metainfo = dict(
    classes=(
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign", "fence", "car", "pedestrian", "bicyclist"),
    )
)
sizes = dict(
    Resize=dict(scale=(480, 360)),
    RandomResize=dict(scale=(480, 360)),
    RandomCrop=dict(crop_size=(360, 480), ignore_index=11),
)
train_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.train_pipeline]
test_pipeline = [dict(step, **sizes.get(step["type"], {})) for step in _base_.test_pipeline]
common = dict(type="BaseSegDataset", data_root=data_root, metainfo=metainfo, img_suffix=".png", ignore_index=11)
train_dataloader = dict(
    dataset=dict(common, data_prefix=dict(img_path="train", seg_map_path="trainannot"), pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(common, data_prefix=dict(img_path="val", seg_map_path="valannot"), pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=11)
test_evaluator = val_evaluator
del sizes, common
