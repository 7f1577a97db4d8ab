"""mmseg's IoUMetric with a table of classes, an F score that counts every class, and exact sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric

from hybrid_dense.evaluation.classes import ClassTable
from hybrid_dense.evaluation.regions import count_by_region_size

_SIZE_COLUMNS = ("Acc_s", "Acc_m", "Acc_l")


@METRICS.register_module()
class DetailedIoUMetric(IoUMetric):
    """mIoU, class and pixel accuracy, F score, precision and recall of semantic maps, in percent.

    Beside mmseg's IoUMetric: what it prints for every class is kept as a table. The F score of a class that is there
    but never found is 0; the host leaves it out of the mean (its precision is 0/0), so that missing a class would raise
    mFscore. Pixels are counted in integers, in one pass, and summed in double precision; the host's float32 loses some
    above 2²⁴ (17 million) of a class. An image leaves behind four numbers a class, whatever its size.

    Args:
        iou_metrics: of "mIoU", "mDice" and "mFscore"; here the first and last by default.
        region_sizes: also the share of right pixels in small, medium and large regions (Acc_s, Acc_m, Acc_l).
        options: the other arguments of IoUMetric (ignore_index, nan_to_num, beta, output_dir, format_only, …).
    """

    def __init__(self, iou_metrics: Sequence[str] = ("mIoU", "mFscore"), region_sizes: bool = False, **options) -> None:
        super().__init__(iou_metrics=[iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics), **options)
        self.region_sizes = region_sizes
        self.class_tables: list[ClassTable] = []

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only:
            return super().compute_metrics(results)
        found = super().compute_metrics([tuple(areas.double() for areas in image[:4]) for image in results])
        if self.region_sizes:
            found.update(self._add_region_sizes(sum(image[4].double() for image in results)))
        # save_best="auto" takes the first figure; the host's is pixel accuracy.
        found["aAcc"] = found.pop("aAcc")
        return {name: float(value) for name, value in found.items()}

    def _add_region_sizes(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Columns of the table and their means, from pixels (classes, sizes, right and all)."""
        shares = 100 * pixels[..., 0] / pixels[..., 1]
        for row, values in zip(self.class_tables[0].rows.values(), shares.tolist(), strict=True):
            row.update(zip(_SIZE_COLUMNS, values, strict=True))
        return {f"m{name}": column.nanmean() for name, column in zip(_SIZE_COLUMNS, shares.T, strict=True)}

    def intersect_and_union(
        self, pred_label: torch.Tensor, label: torch.Tensor, num_classes: int, ignore_index: int
    ) -> tuple[torch.Tensor, ...]:
        """The host's four counts of an image (static there), and those by the size of regions if asked for.

        Returns:
            Pixels of each class in the intersection, the union, the prediction and the labels, (classes,) each.
        """
        pairs = count_pairs(pred_label, label, num_classes, ignore_index).cpu()
        found, labelled = pairs[:, 1:-1].sum(0), pairs[1:-1].sum(1)
        both = pairs.diagonal()[1:-1].clone()  # a view would keep the whole table
        areas = (both, found + labelled - both, found, labelled)
        if not self.region_sizes:
            return areas
        label = label.masked_fill(label == ignore_index, num_classes)
        pixels = count_by_region_size(pred_label.cpu().numpy(), label.cpu().numpy(), num_classes)
        return (*areas, torch.from_numpy(pixels))

    def total_area_to_metrics(
        self,
        total_area_intersect: torch.Tensor,
        total_area_union: torch.Tensor,
        total_area_pred_label: torch.Tensor,
        total_area_label: torch.Tensor,
        metrics: Sequence[str],
        nan_to_num: int | None,
        beta: int,
    ) -> dict:
        """The host's figures from the pixels of each class, (classes,) each; static there, here it keeps the table."""
        areas = (total_area_intersect, total_area_union, total_area_pred_label, total_area_label)
        found = super().total_area_to_metrics(*areas, metrics, nan_to_num, beta)
        if "Fscore" in found:
            # The same quotient with nothing in between that can be 0/0, unless the class is nowhere at all.
            weight = beta**2
            score = (1 + weight) * total_area_intersect / (weight * total_area_label + total_area_pred_label)
            found["Fscore"] = (score if nan_to_num is None else score.nan_to_num(nan=nan_to_num)).numpy()
        columns = {name: 100 * values for name, values in found.items() if name != "aAcc"}
        rows = {
            name: {measure: float(values[index]) for measure, values in columns.items()}
            for index, name in enumerate(self.dataset_meta["classes"])
        }
        for name, pixels in zip(rows, total_area_label, strict=True):
            rows[name]["pixels"] = int(pixels)
        self.class_tables = [ClassTable(self.prefix or "classes", rows)]
        return found


def count_pairs(predicted: torch.Tensor, labelled: torch.Tensor, classes: int, ignored: int) -> torch.Tensor:
    """Count the pixels of each pair of label and prediction.

    Args:
        predicted: (H, W), integers.
        labelled: (H, W), integers.
        classes: their number.
        ignored: pixels with this label are left out.

    Returns:
        (classes + 2, classes + 2): by label and prediction; the first row and column are values under 0, the last ones
        values that are no class either.
    """
    side = classes + 2
    labelled = labelled.long()
    pairs = (labelled.clamp(-1, classes) + 1).mul_(side)
    pairs += predicted.long().clamp(-1, classes).add_(1)
    pairs.masked_fill_(labelled == ignored, side * side)
    return torch.bincount(pairs.flatten(), minlength=side * side + 1)[:-1].view(side, side)
