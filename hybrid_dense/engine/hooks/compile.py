"""torch.compile for the networks of a training whose shapes make one graph: backbone and neck."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import nn

from hybrid_dense.engine.parts import unwrap
from hybrid_dense.engine.precision import exchange_forward

# Heads sample, match and call mmcv's operators; in these two nothing depends on the values in a tensor.
_COMPILED = re.compile(r"(^|\.)(backbone|neck)$")


@HOOKS.register_module()
class CompileHook(Hook):
    """Train backbone and neck as one graph each, without a break: ``dict(type="CompileHook")``.

    Whatever cannot be compiled (no compiler on the machine, an operation that torch cannot trace, more shapes than
    ``recompile_limit``) goes on uncompiled, and one line in the log says why. Validation runs uncompiled: its images
    have sizes of their own, each of which could cost a compilation. State dicts keep their names, and a deep copy of
    the model (EMA) is a model of its own.

    Args:
        backend: who makes code of a graph; ``"eager"`` makes none, which is for tests.
        dynamic: whether sizes of images are variables of the graph. None makes them so when a second size comes.
        recompile_limit: graphs a part may have. Each image size that pads, crops or windows differently needs one.
    """

    # After the hooks that change the model, such as those that freeze parts of it.
    priority = "VERY_LOW"

    def __init__(self, backend: str = "inductor", dynamic: bool | None = None, recompile_limit: int = 32):
        self.options = dict(backend=backend, dynamic=dynamic, recompile_limit=recompile_limit)

    def before_train(self, runner) -> None:
        parts = compile_modules(unwrap(runner.model), **self.options)
        for name in skipped_parts(unwrap(runner.model)):
            runner.logger.warning(
                f"{name} runs uncompiled: torch.compile cannot trace SyncBatchNorm; "
                f"--cfg-options sync_bn=None lets each GPU take its own statistics"
            )
        found = ", ".join(parts) if parts else "nothing: the model has neither a backbone nor a neck"
        runner.logger.info(f"torch.compile ({self.options['backend']}) of: {found}; the first steps take minutes")


def compile_modules(model: nn.Module, **options) -> list[str]:
    """Compile the training forwards of backbone and neck, in place; returns their names. See `CompileHook`.

    Each is compiled when it first runs. Calling it again changes the options.
    """
    skipped = skipped_parts(model)
    names = [name for name in _named(model) if name not in skipped]
    for name in names:
        exchange_forward(model.get_submodule(name), partial(_CompiledForward, name, options))
    return names


def skipped_parts(model: nn.Module) -> list[str]:
    """Backbones and necks that hold a SyncBatchNorm, whose function torch.compile cannot trace."""
    return [
        name
        for name in _named(model)
        if any(isinstance(module, nn.SyncBatchNorm) for module in model.get_submodule(name).modules())
    ]


def _named(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules() if _COMPILED.search(name)]


class _CompiledForward:
    """A forward that runs compiled while gradients are recorded, and as it was for the rest of the training once that
    fails."""

    def __init__(self, name: str, options: dict, forward: Callable):
        self.name, self.options = name, options
        self.plain = forward.plain if isinstance(forward, _CompiledForward) else forward
        self.compiled: Callable | None = torch.compile(self.plain, fullgraph=True, **self.options)

    def __call__(self, *args, **kwargs):
        if self.compiled is None or not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        try:
            # The way back is compiled along with the way there, so that its failures arise here as well.
            with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
                return self.compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # tracers, compilers and DDP's splitter of graphs each have errors of their own
            self.compiled = None
            reason = " ".join(str(error).split())[:200]
            print_log(f"{self.name} runs uncompiled: {type(error).__name__}: {reason}", "current", logging.WARNING)
        # An error that is the model's own arises again here, in its own words.
        return self.plain(*args, **kwargs)

    def __deepcopy__(self, memo: dict):
        """What is compiled belongs to one model; the copy compiles its own, if it is ever trained."""
        return _CompiledForward(self.name, self.options, copy.deepcopy(self.plain, memo))

    def __reduce__(self):
        return _CompiledForward, (self.name, self.options, self.plain)
