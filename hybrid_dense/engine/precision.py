"""Run a model's networks in bfloat16 and keep everything that touches boxes, masks and losses in float32.

mmcv's operators (RoIAlign, NMS) do not take bfloat16 on the CPU, and scores of 8 bits rank badly anywhere. So autocast
covers the forwards of the backbone, the neck and the heads, where the time goes, and their outputs leave as float32.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

# Backbones, necks and heads by the names that both hosts give them; several heads stand in a list, as `bbox_head.0`.
PART = re.compile(r"(^|\.)(backbone|neck|\w*head)(\.\d+)?$")


def autocast_modules(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """Put the networks of an mmdet or mmseg model under autocast, in place; returns the names of the parts it covers.

    A part is a module, at any depth, called ``backbone``, ``neck`` or ``…head``. Calling it again changes the dtype.
    """
    covered = []
    for name, module in model.named_modules():
        if PART.search(name) and not isinstance(module, nn.ModuleList):
            plain = module.forward
            if isinstance(plain, partial) and plain.func is _forward_autocast:
                plain = plain.args[0]
            # On the instance and not as a hook: mmseg calls `head.forward` itself. A partial survives deepcopy (EMA).
            module.forward = partial(_forward_autocast, plain, dtype)
            covered.append(name)
    return covered


def _forward_autocast(forward, dtype: torch.dtype, *args, **kwargs):
    device = next((tensor.device.type for tensor in _tensors((args, kwargs))), "cpu")
    with torch.autocast(device, dtype):
        return _to_float32(forward(*args, **kwargs))


def _tensors(values):
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _to_float32(values):
    if isinstance(values, Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, dict):
        return {key: _to_float32(value) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(_to_float32(value) for value in values)
    return values


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; where it only emulates it, float32 is up to 100 times faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


@HOOKS.register_module()
class AutocastHook(Hook):
    """bfloat16 for training, validation and test alike, on GPUs and on CPUs: ``dict(type="AutocastHook")``.

    bfloat16 has float32's range, so no loss scaling is needed. A device that only emulates it stays at float32, and the
    log says so.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        device = next(model.parameters()).device
        if computes_bfloat16(device):
            parts = autocast_modules(model, torch.bfloat16)
            runner.logger.info(f"bfloat16 autocast in: {', '.join(parts)}")
        else:
            runner.logger.info(f"no native bfloat16 on this {device.type}: training stays in float32")
