"""What a checkpoint needs beside mmengine's content for a training to go on as if it had never stopped."""

from __future__ import annotations

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from torch import Tensor, nn

from hybrid_dense.engine.parts import unwrap
from hybrid_dense.engine.random_states import read_random_states, restore_random_states
from hybrid_dense.engine.resumable import check_resumable, take_trained_weights


class ExactResumeHook(Hook):
    """Saves, and on resuming restores, the place in the data, the random states and gradients that no step has used.

    It belongs to `ExactEpochLoop` and `ExactIterLoop`, which bring it along. In a checkpoint's ``hybrid_dense``:

    - ``sampler``: epoch and batch that come next, and the seeds of order and samples; the same for all processes.
    - ``random_states``: the generators of the process that saved, for what draws outside of steps. Steps are seeded one
      by one, in every process.
    - ``gradients``: by parameter, where the checkpoint was written between the steps of an accumulation. With several
      processes they are those of the first, which then stand for all: a good estimate, but not bit for bit.
    """

    # Behind hooks that draw random numbers before training, and behind the checkpoint hook, which says how far it is.
    priority = "LOWEST"

    def __init__(self):
        self.loaded: dict | None = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        ours, meta = checkpoint.setdefault("hybrid_dense", {}), checkpoint["meta"]
        ours["sampler"] = runner.train_loop.describe_place(meta["epoch"], meta["iter"])
        ours["random_states"] = read_random_states()
        if gradients := _read_gradients(unwrap(runner.model), checkpoint.get("state_dict", {})):
            ours["gradients"] = gradients

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.loaded = checkpoint.get("hybrid_dense", {})
        if not runner._resume:
            return
        with_optimizer = all(getattr(hook, "save_optimizer", True) for hook in runner.hooks)
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # several have none of their own
        # mmengine's FSDP (FSDP1) has flat shares in the place of parameters, which tell nothing.
        model = None if hasattr(runner.model, "_fsdp_wrapped_module") else unwrap(runner.model)
        check_resumable(
            checkpoint, str(runner._load_from or "the checkpoint"), model, optimizer if model else None, with_optimizer
        )
        if not any(isinstance(hook, EMAHook) for hook in runner.hooks) and take_trained_weights(checkpoint):
            print_log("averaged weights (EMA) in the checkpoint are left; it goes on with the trained ones", "current")

    def before_train(self, runner) -> None:
        loaded, self.loaded = self.loaded, None
        if runner.iter >= runner.max_iters:
            print_log(
                f"nothing left to train: the checkpoint is at iteration {runner.iter} of {runner.max_iters}", "current"
            )
        # Weights to start from are no training to resume; one that is may stand at 0, before a sick first batch.
        if loaded is None or not (runner._resume or runner.iter):
            return
        runner.train_loop.take_up(loaded.get("sampler"))
        if "random_states" in loaded:
            restore_random_states(loaded["random_states"])
        if "gradients" in loaded:
            _restore_gradients(unwrap(runner.model), loaded["gradients"])
            print_log("gradients of the step that was being accumulated are restored", "current")


def _read_gradients(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of whole parameters, on the CPU; those of shards would fit no other process."""
    return {
        name: parameter.grad.cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and name in weights and weights[name].shape == parameter.shape
    }


def _restore_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter, copy=True)  # not in the file, which loading may have mapped
