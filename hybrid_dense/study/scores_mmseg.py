"""What each image contributed to mmseg's mIoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmseg.evaluation import IoUMetric

from hybrid_dense.study.scores import Areas, scores_of


@scores_of.register
def _(metric: IoUMetric, results: Sequence, key: str) -> Areas | None:
    if key != "mIoU" or metric.nan_to_num is not None:
        return None
    intersect, union = (np.stack([np.asarray(image[part]) for image in results]) for part in (0, 1))
    return Areas(intersect.astype(np.uint32), union.astype(np.uint32))
