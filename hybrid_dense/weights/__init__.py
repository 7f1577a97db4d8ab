"""Pretrained weights from everywhere, brought to the names and shapes of the two trunks, with an account of it."""

from hybrid_dense.weights.convert import Conversion, convert
from hybrid_dense.weights.pretrained import TrunkPretrained, load_pretrained
from hybrid_dense.weights.report import CoverageError, CoverageReport, TrunkCoverage

__all__ = [
    "Conversion",
    "CoverageError",
    "CoverageReport",
    "TrunkCoverage",
    "TrunkPretrained",
    "convert",
    "load_pretrained",
]
