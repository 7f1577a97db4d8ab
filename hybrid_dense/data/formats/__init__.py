"""Data sets as people have them: COCO, PASCAL VOC and folders of label maps, read into and written from one model."""
