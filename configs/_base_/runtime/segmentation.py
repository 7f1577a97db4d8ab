_base_ = "detection.py"
default_scope = "mmseg"
custom_imports = dict(
    imports=["hybrid_dense", "hybrid_dense.evaluation.iou_mmseg", "hybrid_dense.evaluation.sliding_mmseg"]
)
visualizer = dict(type="SegLocalVisualizer")
