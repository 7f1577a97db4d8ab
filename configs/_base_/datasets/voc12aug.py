# PASCAL VOC 2012 with the augmented training set (Hariharan et al. 2011): 10,582 images. Beside the official
# data/VOCdevkit/VOC2012 it needs SegmentationClassAug/ and ImageSets/Segmentation/aug.txt, which mmseg's
# tools/dataset_converters/voc_aug.py writes (commands: docs/zoo.md).
_base_ = "semantic.py"
data_root = "data/VOCdevkit/VOC2012/"
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(
                type="PascalVOCDataset",
                data_root=data_root,
                data_prefix=dict(img_path="JPEGImages", seg_map_path=labels),
                ann_file=f"ImageSets/Segmentation/{split}.txt",
                pipeline=_base_.train_pipeline,
            )
            for split, labels in (("train", "SegmentationClass"), ("aug", "SegmentationClassAug"))
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        type="PascalVOCDataset",
        data_root=data_root,
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
    )
)
test_dataloader = val_dataloader
