"""Run a model's networks in 16 bits and keep everything that touches boxes, masks and losses in float32.

mmcv's operators (RoIAlign, NMS) do not take bfloat16 on the CPU, and scores of 8 bits rank badly anywhere. So autocast
covers the forwards of the backbone, the neck and the heads, where the time goes, and their outputs leave as float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from hybrid_dense.engine.parts import unwrap

# Backbones, necks and heads by the names that both hosts give them; several heads stand in a list, as `bbox_head.0`.
PART = re.compile(r"(^|\.)(backbone|neck|\w*head)(\.\d+)?$")
# mmcv's deformable attention (in Mask2Former's pixel decoder) has no kernel for bfloat16: it would sample level by
# level in plain PyTorch, with a warning and several waits for the GPU in every layer.
IN_FLOAT32 = ("MultiScaleDeformableAttention",)
# Short words for what a model computes in, and the names that torch and configs have for them.
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# What autocast computes in; float32 needs none.
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# The instructions, by the names torch gives them, with which a CPU multiplies a type itself.
_CPU_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
# From Volta on, matrix units multiply float16.
_FLOAT16_CAPABILITY = (7, 0)


def autocast_modules(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """Put the networks of an mmdet or mmseg model under autocast, in place; returns the names of the parts it covers.

    A part is a module, at any depth, called ``backbone``, ``neck`` or ``…head``. Calling it again changes the dtype.
    """
    covered = []
    for name, module in model.named_modules():
        if PART.search(name) and not isinstance(module, nn.ModuleList):
            # On the instance and not as a hook: mmseg calls `head.forward` itself. A partial survives deepcopy (EMA).
            module.forward = partial(_forward_autocast, _plain_forward(module), dtype)
            covered.append(name)
        elif type(module).__name__ in IN_FLOAT32 and "forward" not in vars(module):
            module.forward = partial(_forward_float32, module.forward)
    return covered


def exchange_forward(module: nn.Module, exchange: Callable) -> None:
    """Put ``exchange(forward)`` in place of a module's forward, inside of autocast where the module is under it."""
    outer, plain = module.forward, exchange(_plain_forward(module))
    module.forward = partial(_forward_autocast, plain, *outer.args[1:]) if _is_autocast(outer) else plain


def _plain_forward(module: nn.Module) -> Callable:
    return module.forward.args[0] if _is_autocast(module.forward) else module.forward


def _is_autocast(forward: Callable) -> bool:
    return isinstance(forward, partial) and forward.func is _forward_autocast


def _forward_autocast(forward, dtype: torch.dtype, *args, **kwargs):
    device = next((tensor.device.type for tensor in _tensors((args, kwargs))), "cpu")
    with torch.autocast(device, dtype):
        return _to_float32(forward(*args, **kwargs))


def _forward_float32(forward, *args, **kwargs):
    device = next((tensor.device.type for tensor in _tensors((args, kwargs))), "cpu")
    with torch.autocast(device, enabled=False):
        return forward(*_to_float32(args), **_to_float32(kwargs))


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


def computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device multiplies bfloat16 or float16 natively.

    Where a CPU only emulates it, float32 is many times faster: bfloat16 with AVX2 alone, float16 without AVX512-FP16 or
    AMX-FP16.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FLOAT16_CAPABILITY
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _CPU_INSTRUCTIONS[dtype])
    return False


def use_tf32(on: bool) -> None:
    """Let GPUs round the factors of float32 products to 10 bits (TF32), or not; sums stay in float32.

    For what autocast leaves in float32: on an Ampere GPU or a later one several times faster, and still two bits more
    than bfloat16 keeps. CPUs are left at full float32.
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@HOOKS.register_module()
class AutocastHook(Hook):
    """16 bits for training, validation and test alike, on GPUs and on CPUs: ``dict(type="AutocastHook")``.

    bfloat16 has float32's range, so no loss scaling is needed. float16 has not: train it with
    ``optim_wrapper=dict(type="GuardedOptimWrapper", dtype="float16")``, as ``--amp fp16`` does. A device that only
    emulates the type stays at float32, and the log says so.

    Args:
        dtype: ``"bfloat16"`` or ``"float16"``.

    Raises:
        ValueError: another dtype.
    """

    priority = "VERY_HIGH"

    def __init__(self, dtype: str = "bfloat16"):
        if dtype not in HALVES:
            raise ValueError(f"AutocastHook dtype {dtype!r} is neither {' nor '.join(HALVES)}; float32 needs no hook")
        self.dtype = dtype

    def before_run(self, runner) -> None:
        model = unwrap(runner.model)
        device = next(model.parameters()).device
        if computes(device, HALVES[self.dtype]):
            parts = autocast_modules(model, HALVES[self.dtype])
            runner.logger.info(f"{self.dtype} autocast in: {', '.join(parts)}")
        else:
            runner.logger.info(f"no native {self.dtype} on this {device.type}: it stays in float32")
