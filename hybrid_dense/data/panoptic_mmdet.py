"""COCO panoptic annotations for mmdet, without panopticapi."""

from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmengine.registry import TRANSFORMS
from numpy import int64, ndarray

from hybrid_dense.data.late_masks_mmdet import LateMasks, Patch


@TRANSFORMS.register_module()
class LoadPanopticMaps(LoadPanopticAnnotations):
    """mmdet's ``LoadPanopticAnnotations``, which needs panopticapi for one line of arithmetic, with `LateMasks`."""

    def __init__(self, **options):
        LoadAnnotations.__init__(self, with_mask=True, with_seg=True, **options)

    def _load_masks_and_semantic_segs(self, results: dict) -> None:
        super()._load_masks_and_semantic_segs(results)
        if "gt_masks" in results:
            masks = [Patch.of(mask) for mask in results["gt_masks"].masks]
            results["gt_masks"] = LateMasks(masks, *results["ori_shape"])

    @staticmethod
    def rgb2id(image: ndarray) -> ndarray:
        """A COCO panoptic PNG (H, W, 3) as ids (H, W): R + 256 · G + 256² · B."""
        red, green, blue = (image[..., channel].astype(int64) for channel in range(3))
        return red + 256 * green + 256**2 * blue
