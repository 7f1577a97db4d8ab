_base_ = "detection.py"
default_scope = "mmseg"
visualizer = dict(type="SegLocalVisualizer")
