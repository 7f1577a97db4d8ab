"""Right pixels of semantic maps by the size of the region that they lie in."""

from __future__ import annotations

import cv2
import numpy as np

# COCO's: small is under 32² pixels, large from 96² on.
SIZE_EDGES = (32**2, 96**2)


def count_by_region_size(predicted: np.ndarray, labelled: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of every labelled region, and those of them that are predicted right.

    A region is what hangs together (over edges and corners) of one label. Labels from ``classes`` on are left out: give
    ignored pixels one of these.

    Args:
        predicted: (H, W), integers.
        labelled: (H, W), integers.
        classes: their number.

    Returns:
        (classes, 3, 2): by class and size (small, medium, large), right pixels and all pixels.
    """
    counted = np.zeros((classes, 3, 2), np.int64)
    for label in np.unique(labelled):
        if not 0 <= label < classes:
            continue
        mask = labelled == label
        number, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # 0 is the rest of the image
        right = np.bincount(regions[mask & (predicted == label)], minlength=number)[1:]
        sizes = np.digitize(areas, SIZE_EDGES)
        for column, pixels in enumerate((right, areas)):
            np.add.at(counted[label, :, column], sizes, pixels)
    return counted
