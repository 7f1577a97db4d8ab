"""Look before training: do the files exist, do the class names of data set, config and model agree, what is broken?"""

from __future__ import annotations

import logging

from mmengine.config import Config

from hybrid_dense.data.checks.examine import Report, examine
from hybrid_dense.data.checks.read_config import class_names, innermost, read_config
from hybrid_dense.data.checks.table import QUICK, STOPS

HEAD_KEYS = ("bbox_head", "mask_head", "decode_head", "auxiliary_head", "panoptic_head")
LOOKED_AT = 5000  # files of a split; a network disk opens about a thousand a second
SHOWN = 5  # of each kind
logger = logging.getLogger(__name__)


def check_data(cfg: Config, splits: tuple[str, ...]) -> Report:
    """Check the data sets of these splits (``"train"``, ``"val"``, ``"test"``) against the config, without decoding.

    What does not stop a training is a warning of this module's logger, one line each.

    Raises:
        FileNotFoundError: an annotation file or image folder is missing.
        ValueError: classes of config, data and model differ, or an annotation file cannot be read.
    """
    read = read_config(cfg, splits)
    report = examine(read, full=False, limit=LOOKED_AT)
    for check in QUICK:
        found = report.of(check)
        if found and check.train == STOPS:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ValueError(f"the {found[0].split} data set: {found[0].file}: {found[0].message}{more}")
        warn(found)
    for split in splits:
        for dataset in innermost(cfg.get(f"{split}_dataloader")):
            if class_names(dataset):
                check_num_classes(cfg.model, class_names(dataset))
    return report


def warn(found: list) -> None:
    """Warn of the findings of one kind."""
    for finding in found[:SHOWN]:
        logger.warning("hybrid-dense: warning: %s", finding)
    if len(found) > SHOWN:
        logger.warning(
            "hybrid-dense: warning: and %d more of %s; `hybrid-dense check-data` lists all",
            len(found) - SHOWN,
            found[0].kind,
        )


def check_num_classes(model: dict, classes: tuple[str, ...]) -> None:
    """Every head of the model must have as many classes as the data set.

    Raises:
        ValueError: one has not.
    """
    for key, value in model.items():
        for head in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(head, dict):
                continue
            said, count = stated_classes(head)
            if key in HEAD_KEYS and count not in (None, len(classes)):
                raise ValueError(
                    f"{key} has {said} but the data set has {len(classes)} classes "
                    f"({', '.join(classes[:6])}{', …' if len(classes) > 6 else ''}); make them equal"
                )
            check_num_classes(head, classes)


def stated_classes(head: dict) -> tuple[str, int | None]:
    """How a head states its number of classes, and the number; things and stuff of a panoptic head are added."""
    parts = [key for key in ("num_things_classes", "num_stuff_classes") if key in head] or ["num_classes"]
    if parts[0] not in head:
        return "", None
    return " and ".join(f"{key}={head[key]}" for key in parts), sum(head[key] for key in parts)
