"""The registered necks: four maps in, the levels that a host head asks for out."""

from hybrid_dense.necks.hybrid_fpn import HybridFPN

__all__ = ["HybridFPN"]
