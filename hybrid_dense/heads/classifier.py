"""A backbone, the mean of its last map, and a linear layer."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Say which class an image shows.

    The last of the backbone's maps is averaged over its places and weighed by one linear layer (He et al. 2016, section
    3.3), so any backbone that ends in a map will do.

    Args:
        backbone: config of the backbone.
        in_channels: channels of its last map; ``"backbone.out_channels[-1]"`` in a config.
        num_classes: number of classes.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
        data_preprocessor, init_cfg: mmengine's.

    ``forward`` takes ``inputs`` (b, 3, H, W) and ``labels`` (b,). Its mode "tensor" gives logits (b, num_classes),
    "loss" the cross entropy, "predict" a list of ``dict(pred_label, scores, gt_label)``, one an image, as
    ``ClassificationMetric`` reads them.
    """

    def __init__(
        self,
        backbone: dict,
        in_channels: int,
        num_classes: int,
        label_smoothing: float = 0.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} is no share of a target; it lies between 0 and 1")
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(in_channels, num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Tensor | dict | list[dict]:
        logits = self.head(self.backbone(inputs)[-1].mean(dim=(2, 3)))
        if mode == "tensor":
            return logits
        if mode == "loss":
            return dict(loss=F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing))
        scores = logits.softmax(dim=1)
        found = scores.argmax(dim=1).tolist()
        answers = [dict(pred_label=label, scores=row) for label, row in zip(found, scores, strict=True)]
        if labels is None:
            return answers
        return [dict(answer, gt_label=label) for answer, label in zip(answers, labels.tolist(), strict=True)]
