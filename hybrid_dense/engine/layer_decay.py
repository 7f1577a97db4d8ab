"""Learning rates by branch and by depth: what is pretrained moves slowly, what is new at the full rate."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hybrid_dense.engine.parts import BRANCHES, ModelParts, Place
from hybrid_dense.engine.rates import Rates, is_number

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# mmcv's SyncBatchNorm and foreign RMSNorms are no subclasses of torch's.
NORM_NAME = re.compile(r"Norm(\dd)?$")

# Positions, tokens, gates and scales have no weights whose size would be worth keeping small. The words are those that
# timm, mmcv, mmdet, mmseg and transformers use, ours among them.
UNDECAYED = re.compile(
    r"(^|\.)(\w*pos_embed\w*|\w*position\w*|rel_pos\w*|relative_\w+|level_embed\w*"  # positions
    r"|\w*_tokens?(?=$)|class_embedding"
    r"|(\w+_)?gates?|excite_\w+"
    r"|gamma\w*|layer_scale\w*|lambda\w*|scale|logit_scale|temperature)(\.|$)"
)


@dataclass(frozen=True)
class ParameterRate:
    """What one parameter is trained with.

    Args:
        place: its name, and the part of the model that it is in.
        parameter: the tensor.
        depth, layers: its layer and the number of layers of its trunk; None outside of backbones.
        lr: the learning rate; None where the model has frozen the parameter: such are left out of the optimizer.
        weight_decay: the weight decay.
    """

    place: Place
    parameter: nn.Parameter
    depth: int | None
    layers: int | None
    lr: float | None
    weight_decay: float


def list_rates(model: nn.Module, lr: float, weight_decay: float, rates: Rates) -> list[ParameterRate]:
    """Every parameter of a model once, in the model's order; a shared one counts where it is first.

    Raises:
        ValueError: layers are to decay, and the backbone has no ``get_layer_depth``; FSDP without ``use_orig_params``.
    """
    parts = ModelParts(model)
    found, seen = [], set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if name.endswith("_flat_param"):
                raise ValueError(
                    "HybridLayerDecay needs parameters with names of their own: set use_orig_params=True in FSDP"
                )
            place = parts.place(name)
            depth, layers = layer_depth(parts, place, rates)
            custom = rates.custom(place.name)
            scale = getattr(rates, place.branch) * custom.get("lr_mult", 1.0)
            if layers is not None:
                scale *= rates.decay_of(place.branch) ** (layers - depth - 1)
            decay = weight_decay * custom.get("decay_mult", decay_multiplier(place.name, module, rates))
            rate = lr * scale if parameter.requires_grad else None
            found.append(ParameterRate(place, parameter, depth, layers, rate, decay))
    return found


def layer_depth(parts: ModelParts, place: Place, rates: Rates) -> tuple[int | None, int | None]:
    """The layer of a parameter and the number of layers, asked of its backbone; None, None outside of backbones."""
    if not place.owner:
        return None, None
    backbone = parts.backbones[place.owner]
    if hasattr(backbone, "get_layer_depth"):
        return backbone.get_layer_depth(place.name, f"{place.owner}.")
    if rates.decay_of(place.branch) != 1:
        raise ValueError(
            f"{type(backbone).__name__} has no get_layer_depth(param_name, prefix), which a layer_decay of "
            f"{rates.decay_of(place.branch)} asks; set paramwise_cfg.layer_decay=1.0 for rates by branch alone"
        )
    return None, None


def decay_multiplier(name: str, module: nn.Module, rates: Rates) -> float:
    """The multiplier of a parameter's weight decay, by its module's type and its name.

    Shapes say nothing here: under FSDP every parameter is a vector.
    """
    if isinstance(module, NORMS) or NORM_NAME.search(type(module).__name__):
        return rates.norm_decay_mult
    if UNDECAYED.search(name):
        return 0.0
    return rates.bias_decay_mult if "bias" in name.rpartition(".")[2] else 1.0


def group_rates(found: list[ParameterRate]) -> list[dict]:
    """The optimizer's groups: one for every pair of learning rate and weight decay, so that fused steps stay few."""
    groups = defaultdict(list)
    for rate in found:
        if rate.lr is not None:
            groups[rate.lr, rate.weight_decay].append(rate.parameter)
    return [dict(params=params, lr=lr, weight_decay=decay) for (lr, decay), params in groups.items()]


HEADER = ("branch", "depth", "learning rate", "weight decay", "tensors", "parameters")


def rates_table(found: list[ParameterRate]) -> list[tuple[str, ...]]:
    """Rows under ``HEADER``: what is trained alike in a branch and at a depth, from the input to the heads."""
    rows = defaultdict(list)
    for rate in found:
        frozen = rate.lr is None
        branch = BRANCHES.index(rate.place.branch)
        depth = (-1, 0) if rate.depth is None else (rate.depth, rate.layers - 1)
        rows[branch, depth, frozen, rate.lr or 0.0, 0.0 if frozen else -rate.weight_decay].append(rate)
    return [
        (
            BRANCHES[branch],
            "–" if depth[0] < 0 else f"{depth[0]} of {depth[1]}",
            "frozen" if frozen else f"{lr:.3g}",
            "–" if frozen else f"{-decay:g}",
            f"{len(members)}",
            f"{sum(member.parameter.numel() for member in members):,}",
        )
        for (branch, depth, frozen, lr, decay), members in sorted(rows.items())
    ]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class HybridLayerDecay(DefaultOptimWrapperConstructor):
    """Optimizer whose learning rates differ by branch and fall from the heads to the input::

        optim_wrapper = dict(
            constructor="HybridLayerDecay",
            optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(layer_decay=dict(vit=0.7), cnn=0.1),
        )

    The rate of a parameter is ``lr × branch × layer_decay ** (layers - depth - 1)``; the backbone is asked for the
    depth (``get_layer_depth``, as mmpretrain's have it). Norms, biases, positions, tokens, gates and layer scales have
    no weight decay. Parameters of equal rate and decay share a group; those that the model has frozen are in none. Adam
    and AdamW run fused where torch can, unless the config says ``fused`` or ``foreach`` itself.

    Args:
        optim_wrapper_cfg: the config of the wrapper; its ``optimizer`` needs ``lr``.
        paramwise_cfg: see ``Rates``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        self.rates = Rates.read(dict(paramwise_cfg or {}))
        super().__init__(optim_wrapper_cfg, dict(vars(self.rates)))
        if not is_number(self.base_lr):
            raise ValueError(f"HybridLayerDecay needs a number as optimizer.lr, not {self.base_lr!r}")

    def _validate_cfg(self) -> None:
        """``Rates.read`` has done it."""

    def list_rates(self, model: nn.Module) -> list[ParameterRate]:
        """What every parameter of this model would be trained with."""
        decay = self.base_wd
        if decay is None:  # the optimizer's own default
            default = inspect.signature(self._optimizer_class()).parameters.get("weight_decay")
            decay = 0.0 if default is None else default.default
        return list_rates(model, self.base_lr, decay, self.rates)

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        found = self.list_rates(module)
        params.extend(group_rates(found))
        rows = align([HEADER, *rates_table(found)])
        text = f"{len(params)} parameter groups; rates before warm-up and auto_scale_lr:\n{rows}"
        print_log(text, logger="current")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        plain = model.module if hasattr(model, "module") else model
        chosen = {"fused", "foreach", "differentiable"} & set(self.optimizer_cfg)
        if not chosen and runs_fused(self._optimizer_class(), plain):
            self.optimizer_cfg = dict(self.optimizer_cfg, fused=True)
        return super().__call__(model)

    def _optimizer_class(self) -> type:
        name = self.optimizer_cfg["type"]
        if not isinstance(name, str):
            return name
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            return registry.get(name)


def runs_fused(optimizer: type, model: nn.Module) -> bool:
    """Whether an optimizer is torch's Adam or AdamW and has a fused step for this model's parameters."""
    if not (isinstance(optimizer, type) and issubclass(optimizer, (torch.optim.Adam, torch.optim.AdamW))):
        return False
    kinds = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    try:
        for device, dtype in kinds:
            optimizer([torch.zeros(1, device=device, dtype=dtype, requires_grad=True)], fused=True)
    except (RuntimeError, TypeError):  # no kernel for this device or type; a subclass without the option
        return False
    return True


def align(rows: list[tuple[str, ...]]) -> str:
    """Rows as lines of aligned columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        branch, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(branch)), *others]))
    return "\n".join(lines)
