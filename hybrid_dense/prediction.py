"""What a model (or an annotator) says about one image: boxes, masks or a label map, in numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# field -> (type it is held in, shape in words); n is the number of instances, (h, w) the image's size.
_INSTANCE_FIELDS = {
    "boxes": (np.float32, "(n, 4)"),
    "scores": (np.float32, "(n,)"),
    "labels": (np.int64, "(n,)"),
    "masks": (np.bool_, "(n, h, w)"),
}
IGNORE_LABEL = 255


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image and what was found in it.

    A detector fills `boxes`, `scores`, `labels` and perhaps `masks`; a semantic model fills `label_map` alone. Ground
    truth is the same class without `scores`.

    Attributes:
        image: uint8 RGB, (h, w, 3).
        boxes: float32 (n, 4), x1 y1 x2 y2 in pixels of `image`.
        scores: float32 (n,), 0 to 1, or None for ground truth.
        labels: int64 (n,), positions in `class_names`.
        masks: bool (n, h, w).
        label_map: integers (h, w), positions in `class_names`; 255 is "ignore".
        class_names: one name a class; may be empty where nobody knows them.
        path: the image file, None for an image that came from memory.

    Raises:
        ValueError: a field has the wrong shape or type, or a label has no class name.
    """

    image: np.ndarray
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    path: str | None = None

    def __post_init__(self):
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image must be a uint8 RGB array of shape (h, w, 3), got {_describe(image)}")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if (self.boxes is None) != (self.labels is None):
            raise ValueError("boxes and labels go together: give both or neither")
        if (self.boxes is None) == (self.label_map is None):
            raise ValueError("give either boxes and labels, or a label_map")
        if self.boxes is None:
            self._check_label_map()
        else:
            self._check_instances()

    def _check_instances(self):
        sizes = {"(n, 4)": (len(self.boxes), 4), "(n,)": (len(self.boxes),)}
        sizes["(n, h, w)"] = (len(self.boxes), *self.image.shape[:2])
        for name, (dtype, words) in _INSTANCE_FIELDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value)
            if value.shape != sizes[words]:
                raise ValueError(f"{name} must have shape {words} = {sizes[words]}, got {_describe(value)}")
            if value.size and not np.can_cast(value.dtype, dtype, casting="same_kind"):
                raise ValueError(f"{name} must be {np.dtype(dtype).name}, got {_describe(value)}")
            object.__setattr__(self, name, value.astype(dtype, copy=False))
        if len(self.labels) and self.labels.min() < 0:
            raise ValueError(f"label {self.labels.min()} is negative; labels are positions in class_names")
        if len(self.labels) and self.class_names and self.labels.max() >= len(self.class_names):
            raise ValueError(f"label {self.labels.max()} has no name: there are {len(self.class_names)} class names")

    def _check_label_map(self):
        if self.scores is not None or self.masks is not None:
            raise ValueError("scores and masks belong to boxes; a label_map stands alone")
        label_map = np.asarray(self.label_map)
        if label_map.shape != self.image.shape[:2] or label_map.dtype.kind not in "iu":
            expected = self.image.shape[:2]
            raise ValueError(f"label_map must be integers of shape (h, w) = {expected}, got {_describe(label_map)}")
        object.__setattr__(self, "label_map", label_map)

    def __len__(self) -> int:
        """Number of instances; 0 for a semantic label map."""
        return 0 if self.boxes is None else len(self.boxes)

    def above(self, min_score: float) -> Prediction:
        """The same prediction with only the instances that score at least `min_score`.

        Ground truth and label maps have no scores and come back unchanged.
        """
        if self.scores is None:
            return self
        keep = self.scores >= min_score
        masks = None if self.masks is None else self.masks[keep]
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], masks=masks)

    def draw(self, path: str | Path | None = None, min_score: float = 0.3) -> Path:
        """Write the image with what was found drawn on it, and return the file's path.

        Args:
            path: where to; by default `<image's stem>_prediction.png` in the current folder.
            min_score: leave out instances that score less.
        """
        from hybrid_dense.report.gallery import save_prediction

        if path is None:
            path = f"{Path(self.path).stem}_prediction.png" if self.path else "prediction.png"
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_prediction(self, path, min_score)
        return path

    def to_coco(self, image_id: int, category_ids: list[int] | None = None) -> list[dict]:
        """The instances in COCO's result format, one dict each, ready for `json.dump` and pycocotools' `loadRes`.

        Boxes become x, y, width, height; masks become compressed run lengths with `counts` as text.

        Args:
            image_id: the image's id in the annotation file.
            category_ids: the id of each class, in the order of `class_names`; by default label + 1.

        Raises:
            ValueError: this is a label map or ground truth, or a label has no category id.
        """
        if self.boxes is None:
            raise ValueError("a semantic label map has no COCO results; write label_map as a PNG instead")
        if self.scores is None:
            raise ValueError("ground truth has no scores, so it has no COCO results")
        if category_ids is not None and len(self) and self.labels.max() >= len(category_ids):
            raise ValueError(f"label {self.labels.max()} has no category id: {len(category_ids)} were given")
        results = []
        for index, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels, strict=True)):
            x1, y1, x2, y2 = (float(value) for value in box)
            result = {
                "image_id": image_id,
                "category_id": int(label) + 1 if category_ids is None else int(category_ids[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
            }
            if self.masks is not None:
                result["segmentation"] = _encode_mask(self.masks[index])
            results.append(result)
        return results


def _encode_mask(mask: np.ndarray) -> dict:
    """A bool mask (h, w) as COCO run lengths that JSON can hold."""
    from pycocotools.mask import encode

    encoded = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _describe(value) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
