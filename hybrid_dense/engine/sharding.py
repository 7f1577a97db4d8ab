"""Train a model whose weights, gradients and optimizer state are spread over the processes: FSDP, on GPUs and on CPUs.

mmengine's own `FSDPStrategy` stands on torch's first FSDP: mmengine then clips every process by the norm of its own
shard, not of all gradients. This one stands on `fully_shard`, whose parameters are DTensors that keep names, shapes and
norms, so that optimizers, hooks and checkpoints stay what they are with DDP.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine._strategy import DDPStrategy, SingleDeviceStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.registry import FUNCTIONS, STRATEGIES
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hybrid_dense.engine.parts import unwrap


@FUNCTIONS.register_module()
def model_parts(model: nn.Module, smallest: int = 50_000) -> list[nn.Module]:
    """What to gather at a time: the modules that backbones name in ``parts()``, which are blocks of the CNN, blocks of
    the ViT and fusions, of at least ``smallest`` weights.

    Everything else (heads call methods of each other that are no ``forward``) is gathered with the whole model.
    """
    named = [module.parts() for module in model.modules() if callable(getattr(module, "parts", None))]
    modules = [module for parts in named for part in parts.values() for module in part]
    # A module of no weights has nothing to gather, and one may stand in several parts.
    chosen = dict.fromkeys(m for m in modules if sum(p.numel() for p in m.parameters()) >= max(smallest, 1))
    return list(chosen)


@STRATEGIES.register_module()
class ReplicateStrategy(DDPStrategy):
    """mmengine's `DDPStrategy`, same arguments, whose checkpoints call weights what the model calls them.

    mmengine's own writes the wrapper's names, with ``module.`` before each, unlike its Runner.
    """

    def model_state_dict(self) -> dict:
        return weights_to_cpu(self.model.module.state_dict())


@STRATEGIES.register_module()
class FullyShardStrategy(DDPStrategy):
    """``strategy=dict(type="FullyShardStrategy")`` for a `FlexibleRunner`; ``train --strategy fsdp`` sets it.

    Every process holds its share of each weight, gradient and optimizer state. A part's weights are gathered when its
    forward or backward pass begins and dropped when it ends. Buffers (BatchNorm's statistics) are whole in every
    process, each from its own images unless ``sync_bn`` is set, and those of the first process are saved, as with DDP.

    Checkpoints are those of DDP: one file with whole tensors, written by the first process. So a training can change
    between the two when it is resumed.

    Args:
        units: the policy that names the modules to gather one by one, from mmengine's FUNCTIONS, with its arguments.
        sync_bn: "torch" or "mmcv" to make BatchNorm take statistics over all processes; on GPUs only.
        **options: those of mmengine's strategies.
    """

    def __init__(self, *, units: dict | None = None, sync_bn: str | None = None, **options):
        super().__init__(sync_bn=sync_bn, **options)
        self.units = dict(units or dict(type="model_parts"))

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        device = torch.device(get_device())
        model = self.convert_model(model.to(device))
        # fully_shard cuts memory into pieces, so it refuses the channels_last weights of convolutions.
        self.strides = {name: p.stride() for name, p in model.named_parameters() if not p.is_contiguous()}
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        # Nothing changes in place what a unit returns, which is what torch warns of here; tests compare all gradients.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(device.type, (self.world_size,))
        for unit in self._find_units(model):
            fully_shard(unit, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def _find_units(self, model: nn.Module) -> list[nn.Module]:
        arguments = dict(self.units)
        policy = FUNCTIONS.get(arguments.pop("type"))
        if policy is None:
            raise ValueError(f"strategy.units.type {self.units['type']!r} is not registered with mmengine's FUNCTIONS")
        units = policy(model, **arguments)
        # Inner modules first: what is sharded already is left to them.
        depth = {module: len(name.split(".")) for name, module in model.named_modules()}
        units = sorted(units, key=depth.__getitem__, reverse=True)
        self.logger.info(f"weights are shared out over {self.world_size} processes, gathered in {len(units) + 1} units")
        return units

    def save_checkpoint(self, filename: str, *, extra_ckpt: dict | None = None, callback=None, **options) -> None:
        # Every process gives its shards, and the first one writes.
        gathered = self.model_state_dict(), self.optim_state_dict() if hasattr(self, "optim_wrapper") else None
        if is_main_process():
            _Gathered(self, *gathered).save_checkpoint(filename, extra_ckpt=extra_ckpt, callback=callback, **options)

    def model_state_dict(self) -> dict:
        return whole_weights(self.model, self.strides)

    def optim_state_dict(self) -> dict:
        """The optimizer's state as DDP has it, in the first process; all have to call it."""
        state, names = self.optim_wrapper.state_dict(), self._parameter_names()
        whole = {
            index: {key: gather(value, self.strides.get(names[index])) for key, value in kept.items()}
            for index, kept in state["state"].items()
        }
        return {**state, "state": whole}

    def _parameter_names(self) -> list[str]:
        """The optimizer's parameters in its order."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[p] for group in self.optim_wrapper.optimizer.param_groups for p in group["params"]]

    def load_model_state_dict(self, state_dict: dict, **options) -> None:
        own, shared = self.model.state_dict(), OrderedDict()
        for name, value in state_dict.items():
            name = name.removeprefix("module.")  # of mmengine's DDPStrategy
            shared[name] = share_out(value, own.get(name))
        shared._metadata = getattr(state_dict, "_metadata", OrderedDict())
        super().load_model_state_dict(shared, **options)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        names, parameters = self._parameter_names(), dict(self.model.named_parameters())
        shared = {
            index: {key: share_out(value, parameters[names[index]]) for key, value in kept.items()}
            for index, kept in state_dict["state"].items()
        }
        super().load_optim_state_dict({**state_dict, "state": shared})


class _Gathered(SingleDeviceStrategy):
    """Saves as a single device does, with states that have been gathered before."""

    def __init__(self, strategy: FullyShardStrategy, model_state: dict, optim_state: dict | None):
        self.__dict__.update(strategy.__dict__)
        self.states = model_state, optim_state

    def model_state_dict(self) -> dict:
        return self.states[0]

    def optim_state_dict(self) -> dict:
        return self.states[1]


def whole_weights(model: nn.Module, strides: Mapping[str, tuple[int, ...]] | None = None) -> OrderedDict:
    """Weights and buffers of a model, wrapped or not, whole, in the first process; all have to call it.

    ``strides``: memory layouts by name, of weights that are not contiguous; see `gather`.
    """
    state = unwrap(model).state_dict()
    whole = OrderedDict((name, gather(value, (strides or {}).get(name))) for name, value in state.items())
    whole._metadata = state._metadata  # versions that modules consult to read older layouts
    return whole


def gather(value, strides: tuple[int, ...] | None):
    """The whole of a tensor's shards on the CPU, None in all processes but the first; anything else as it is.

    Args:
        strides: the memory layout that it had before it was shared out (None: contiguous). Fused optimizers on a CPU
            walk through weight and state side by side in memory without a look at their strides, so a checkpoint must
            have the layout of the model.
    """
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if not isinstance(value, Tensor):
        return value
    if not is_main_process():
        return None
    value = value.cpu()
    if strides is None or value.dim() != len(strides):
        return value
    return torch.empty_strided(value.shape, strides, dtype=value.dtype).copy_(value)


def share_out(value, like):
    """This process's shard of a whole tensor, laid out as ``like``; anything that does not fit is left as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every process has read the whole file, so nothing has to be sent.
    return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None)
