"""The rules that join the two streams, one file each. A new rule is a new file and a line here."""

import inspect
from difflib import get_close_matches

from mmengine.registry import MODELS

from hybrid_dense.archs import FeatureSpec
from hybrid_dense.fusion.add import AddFusion
from hybrid_dense.fusion.base import DIRECTIONS, Fusion
from hybrid_dense.fusion.channel_attention import ChannelAttentionFusion
from hybrid_dense.fusion.concat import ConcatFusion
from hybrid_dense.fusion.cross_attention import CrossAttentionFusion
from hybrid_dense.fusion.deformable import DeformableFusion
from hybrid_dense.fusion.gated import GatedFusion
from hybrid_dense.fusion.identity import IdentityFusion
from hybrid_dense.layers.choices import check_choice

__all__ = [
    "AddFusion",
    "ChannelAttentionFusion",
    "ConcatFusion",
    "CrossAttentionFusion",
    "DeformableFusion",
    "Fusion",
    "GatedFusion",
    "IdentityFusion",
    "build_fusion",
    "check_rule",
    "list_fusions",
]


def list_fusions() -> list[str]:
    """Names of all registered fusion rules, those of other packages included."""
    registered = MODELS.module_dict.items()
    return sorted(name for name, rule in registered if isinstance(rule, type) and issubclass(rule, Fusion))


def check_rule(rule: dict) -> dict:
    """Return ``dict(type="GatedFusion", …)`` as it is; what names no rule, direction or option is a ValueError."""
    name = rule.get("type") if isinstance(rule, dict) else rule
    with MODELS.switch_scope_and_registry(None) as registry:
        found = registry.get(name) if isinstance(rule, dict) and isinstance(name, str) else name
    if not (isinstance(found, type) and issubclass(found, Fusion)):
        near = get_close_matches(str(name), list_fusions(), n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown fusion {name!r}, did you mean {near!r}? fusion is dict(type=…), one of {list_fusions()}"
        )
    check_choice("fusion direction", rule.get("direction", "both"), DIRECTIONS)
    known = inspect.signature(found).parameters.keys() - {"conv", "grid"}
    for option in rule.keys() - {"type"} - known:
        raise ValueError(f"{found.__name__} has no option {option!r}; it takes {', '.join(sorted(known))}")
    return rule


def build_fusion(rule: dict, conv: FeatureSpec, grid: FeatureSpec) -> Fusion:
    """A checked rule to the module that joins these two streams."""
    return MODELS.build(dict(rule, conv=conv, grid=grid))
