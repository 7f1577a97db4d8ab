"""Fill the trunks of a backbone with pretrained weights, all that should be or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from hybrid_dense.weights.convert import KINDS, Conversion, convert
from hybrid_dense.weights.report import CoverageError, CoverageReport
from hybrid_dense.weights.sources import describe_source, read_source

Source = str | Path | Mapping


def load_pretrained(
    backbone: nn.Module, cnn: Source | None = None, vit: Source | None = None, min_coverage: float = 0.95
) -> CoverageReport:
    """Fill the trunks ``backbone.cnn`` and ``backbone.vit`` with pretrained weights.

    The layout is recognised by its names. Position tables, patch kernels and input channels are resized; layer scale is
    folded into a trunk without one. In a distributed run every process must call it; one of each machine downloads.

    Args:
        backbone: of this project, or any module with trunks of those names.
        cnn: the CNN's weights; see ``sources.read_source`` for what a source may be. None leaves the trunk as it is.
        vit: the ViT's.
        min_coverage: share of each trunk's parameters and BatchNorm statistics that must be filled, 0 to 1.

    Raises:
        CoverageError: a trunk was covered less; the message holds the table.
        ValueError, FileNotFoundError: no such trunk or source, an unknown layout, a network of another size, weights
            that are damaged or no real numbers.

    After any error the backbone is as it was.
    """
    sources = {family: source for family, source in (("cnn", cnn), ("vit", vit)) if source is not None}
    if not sources:
        raise ValueError("no weights named; give cnn=… or vit=…")
    if not isinstance(min_coverage, Real) or not 0 <= min_coverage <= 1:
        raise ValueError(f"min_coverage {min_coverage!r} is not a share from 0 to 1")
    for family in sources:
        if not has_trunk(backbone, family):
            is_model = has_trunk(getattr(backbone, "backbone", None), family)
            mend = "give model.backbone" if is_model else f"leave {family}=… out"
            raise ValueError(f"{type(backbone).__name__} has no {KINDS[family]} trunk; {mend}")
    conversions: dict[str, Conversion] = {
        family: convert(read_source(source), getattr(backbone, family), describe_source(source))
        for family, source in sources.items()
    }
    report = CoverageReport(**{family: conversion.coverage for family, conversion in conversions.items()})
    if any(trunk.coverage < min_coverage for trunk in report.trunks):
        raise CoverageError(f"less than min_coverage={min_coverage} was filled; nothing was loaded\n{report}")
    for family, conversion in conversions.items():
        own = getattr(backbone, family).state_dict()
        with torch.no_grad():
            for name, value in conversion.weights.items():
                own[name].copy_(value)
    return report


def has_trunk(backbone: nn.Module, family: str) -> bool:
    return isinstance(getattr(backbone, family, None), nn.Module)


@WEIGHT_INITIALIZERS.register_module()
class TrunkPretrained:
    """``load_pretrained`` as a backbone's ``init_cfg``: ``dict(type="TrunkPretrained", cnn=…, vit=…)``.

    The table goes to the log, as a warning where anything may keep a trunk from computing what its source does. As a
    backbone leaves aside the options that it has no part for, so does this: the source of a trunk that the backbone has
    not is left aside with a warning.
    """

    def __init__(self, cnn: Source | None = None, vit: Source | None = None, min_coverage: float = 0.95):
        self.sources = {family: source for family, source in (("cnn", cnn), ("vit", vit)) if source is not None}
        self.min_coverage = min_coverage

    def __call__(self, module: nn.Module) -> None:
        used = {family: source for family, source in self.sources.items() if has_trunk(module, family)}
        for family in self.sources.keys() - used.keys():
            message = f"{type(module).__name__} has no {KINDS[family]} trunk: {family}=… of init_cfg is left aside"
            print_log(message, logger="current", level=logging.WARNING)
        if self.sources and not used:
            return
        report = load_pretrained(module, **used, min_coverage=self.min_coverage)
        level = logging.INFO if all(trunk.is_whole for trunk in report.trunks) else logging.WARNING
        print_log(f"pretrained weights:\n{report}", logger="current", level=level)
        if hasattr(module, "_params_init_info"):
            origins = ", ".join(f"{family}={describe_source(source)}" for family, source in used.items())
            update_init_info(module, init_info=f"{type(self).__name__}: {origins}")
