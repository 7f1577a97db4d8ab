"""hybrid_dense: backbones that join a ResNeXt and a Vision Transformer, for MMDetection and MMSegmentation.

Importing the package registers every backbone, neck, fusion rule and hook on mmengine's root registries, so that
``custom_imports=dict(imports=["hybrid_dense"])`` makes them known to any mmdet or mmseg config. Neither host is
imported.
"""

import importlib
import itertools
import sys
from pathlib import Path

from hybrid_dense.archs import list_variants
from hybrid_dense.version import __version__

__all__ = [
    "Prediction",
    "Predictor",
    "__version__",
    "list_fusions",
    "list_topologies",
    "list_variants",
    "register_all_modules",
]

# The one list of modules that register something.
_REGISTERING = (
    "backbones",
    "necks",
    "weights",
    "engine.safe_loading",
    "engine.precision",
    "engine.hooks",
    "engine.optim_wrapper",
    "engine.layer_decay",
    "engine.loops",
    "engine.sharding",
    "engine.strategies",
    "evaluation",
    "evaluation.classification",
    "heads",
    "data.cifar",
)

# Public names that need more than the package itself, and where they live.
_LAZY = {
    "Prediction": "hybrid_dense.prediction",
    "Predictor": "hybrid_dense.inference",
    "list_fusions": "hybrid_dense.fusion",
    "list_topologies": "hybrid_dense.backbones",
}


def register_all_modules() -> None:
    """Register everything this package offers with mmengine; calling it again does nothing."""
    for module in _REGISTERING:
        importlib.import_module(f"{__name__}.{module}")


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'hybrid_dense' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def _is_the_command() -> bool:
    """Whether this process is ``hybrid-dense …`` or ``python -m hybrid_dense …``."""
    program = getattr(sys, "argv", [""])[0]
    if program == "-m":  # Python is still looking for the module to run
        return ("-m", __name__) in itertools.pairwise(sys.orig_argv)
    return Path(program).name == "hybrid-dense"


# The `hybrid-dense` command answers --help and doctor where torch is slow to load or broken; its commands register when
# they need to. Everyone else gets the registration that the import promises.
if not _is_the_command():
    register_all_modules()
