"""The rules that join the two streams, one file each. A new rule is a new file and a line here."""

from difflib import get_close_matches

from mmengine.registry import MODELS

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.add import AddFusion
from hybrid_dense.fusion.base import Fusion
from hybrid_dense.fusion.gated import GatedFusion
from hybrid_dense.fusion.identity import IdentityFusion

__all__ = ["AddFusion", "Fusion", "GatedFusion", "IdentityFusion", "build_fusion", "list_fusions"]


def list_fusions() -> list[str]:
    """Names of all registered fusion rules, those of other packages included."""
    registered = MODELS.module_dict.items()
    return sorted(name for name, rule in registered if isinstance(rule, type) and issubclass(rule, Fusion))


def build_fusion(rule: dict, conv: FeatureSpec, grid: FeatureSpec) -> Fusion:
    """``dict(type="GatedFusion", direction="both")`` to a module between these two streams."""
    if rule.get("type") not in list_fusions():
        near = get_close_matches(str(rule.get("type")), list_fusions(), n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown fusion {rule.get('type')!r}, did you mean {near!r}? There are {', '.join(list_fusions())}")
    return MODELS.build(dict(rule, conv=conv, grid=grid))
