"""Hooks that mmengine lacks."""

from hybrid_dense.engine.hooks.progress import RichProgressHook

__all__ = ["RichProgressHook"]
