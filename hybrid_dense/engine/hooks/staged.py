"""Training in stages: first what is new, then everything."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, fields
from difflib import get_close_matches

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hybrid_dense.engine.parts import ModelParts, Place, unwrap

ENDS = ("until", "until_epoch", "until_iter")


@dataclass(frozen=True)
class Stage:
    """A stretch of the training, and what it trains.

    Args:
        train: parts of the model: ``cnn``, ``vit``, ``fusion``, ``backbone``, ``neck``, ``head``, or something finer by
            a part's or a parameter's name (``cnn.stages.3``, ``vit.embed``, ``fusions.0``, ``roi_head.mask_head``).
        until: the fraction of the training at which it ends, between 0 and 1.
        until_epoch: the number of epochs after which it ends.
        until_iter: the number of iterations after which it ends.
    """

    train: tuple[str, ...]
    until: float | None = None
    until_epoch: int | None = None
    until_iter: int | None = None

    def trains(self, places: list[Place]) -> bool:
        """Whether a parameter or module that stands in these places is trained: one place is enough."""
        return any(place.is_in(part) for place in places for part in self.train)

    def end(self, max_iters: int, max_epochs: int) -> int:
        """The iteration, counted from 0, at which the next stage begins; the last stage ends with the training."""
        if self.until is not None:
            return round(self.until * max_iters)
        if self.until_epoch is not None:
            return self.until_epoch * max_iters // max_epochs
        return max_iters if self.until_iter is None else self.until_iter

    def __str__(self) -> str:
        ends = [f"{name}={getattr(self, name)}" for name in ENDS if getattr(self, name) is not None]
        return f"{', '.join(self.train)}{''.join(f' ({end})' for end in ends)}"


@HOOKS.register_module()
class StagedTrainingHook(Hook):
    """Train other parts of a model at other times::

        dict(
            type="StagedTrainingHook",
            stages=[
                dict(until=0.2, train=["fusion", "neck", "head"]),
                dict(train=["cnn", "vit", "fusion", "neck", "head"]),
            ],
        )

    What a stage does not train keeps its weights bit for bit: it gets no gradient, so neither momentum nor weight decay
    move it, and its BatchNorm keeps its statistics (evaluation mode). Dropout and drop path stay as they are in
    training: what is trained behind them should know them. What the model itself has frozen (``frozen_stages``,
    ``norm_eval``) stays frozen in every stage. Which stage it is follows from the iteration alone, so that a resumed
    training is in the right one. One process or DDP; FSDP and DeepSpeed fix what is trained when they begin.

    Args:
        stages: see ``Stage``; every one but the last says where it ends.

    Raises:
        ValueError: stages out of order, without an end, after the end; a part that there is not; a stage that trains
            nothing.
    """

    # Before every hook that reads gradients or modes.
    priority = "VERY_HIGH"

    def __init__(self, stages: list[dict]):
        self.stages = read_stages(stages)
        self.ends: list[int] = []
        self.current: int | None = None

    def before_run(self, runner) -> None:
        model = runner.model
        wrapped = is_model_wrapper(model) and not isinstance(model, DistributedDataParallel)
        # FSDP's fully_shard leaves the model its class and makes its parameters DTensors.
        if wrapped or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            raise ValueError(
                f"StagedTrainingHook works in one process or under DDP, not in {type(model).__name__}, which fixes "
                f"what is trained when it shares the weights out"
            )
        plain = unwrap(model)
        parts = ModelParts(plain)
        self.parameters = places_of(plain.named_parameters(remove_duplicate=False), parts)
        modules = plain.named_modules(remove_duplicate=False)
        self.norms = places_of((pair for pair in modules if keeps_statistics(pair[1])), parts)
        self.total = sum(parameter.numel() for parameter, _ in self.parameters)
        # What the model has frozen itself is not ours.
        self.parameters = [pair for pair in self.parameters if pair[0].requires_grad]
        self.check_parts(plain, parts)
        self.ends = [stage.end(runner.max_iters, runner.max_epochs) for stage in self.stages]
        for number, (start, end) in enumerate(zip([0, *self.ends], self.ends, strict=False)):
            if end <= start or end > runner.max_iters or (end == runner.max_iters and number < len(self.stages) - 1):
                raise ValueError(
                    f"StagedTrainingHook: stage {number + 1}, {self.stages[number]}, would run from iteration {start} "
                    f"to {end}; the stages must follow each other within the training's {runner.max_iters} iterations "
                    f"({runner.max_epochs} epochs)"
                )

    def before_train(self, runner) -> None:
        self.enter(runner, bisect_right(self.ends, runner.iter))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        number = bisect_right(self.ends, runner.iter)
        if number != self.current:
            self.enter(runner, number)
        # The loops call model.train() whenever they please.
        for norm in self.frozen_norms:
            if norm.training:
                norm.eval()

    def enter(self, runner, number: int) -> None:
        """Begin a stage, at any iteration."""
        # A training that is resumed at its end is past the last stage.
        number = min(number, len(self.stages) - 1)
        stage = self.stages[number]
        for parameter, places in self.parameters:
            parameter.requires_grad_(stage.trains(places))
            if not parameter.requires_grad:
                parameter.grad = None
        self.frozen_norms = [norm for norm, places in self.norms if not stage.trains(places)]
        if self.current is not None:
            runner.model.train()  # wakes the statistics of the last stage's frozen norms, as far as the model lets it
        if isinstance(runner.model, DistributedDataParallel):
            follow_requires_grad(runner.model)
        self.current = number
        trained = sum(parameter.numel() for parameter, _ in self.parameters if parameter.requires_grad)
        runner.logger.info(
            f"stage {number + 1} of {len(self.stages)} from iteration {runner.iter}: trains {stage}, "
            f"{trained:,} of {self.total:,} parameters"
        )

    def check_parts(self, model: nn.Module, parts: ModelParts) -> None:
        everything = [parts.place(name) for name, _ in model.named_parameters(remove_duplicate=False)]
        known = {place.part for place in everything} | {place.branch for place in everything}
        for number, stage in enumerate(self.stages, start=1):
            for part in stage.train:
                if not any(place.is_in(part) for place in everything):
                    near = get_close_matches(part, known, n=1, cutoff=0.0)[0]
                    raise ValueError(
                        f"StagedTrainingHook: stage {number} trains an unknown part {part!r}, did you mean {near!r}? "
                        f"The model has {', '.join(sorted(known))}, and its modules by name"
                    )
            if not any(stage.trains(places) for _, places in self.parameters):
                raise ValueError(
                    f"StagedTrainingHook: stage {number} trains nothing; the model itself has frozen all of "
                    f"{', '.join(stage.train)}"
                )


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module gathers running statistics in training: BatchNorm of any make."""
    return getattr(module, "running_mean", None) is not None


def places_of(named, parts: ModelParts) -> list[tuple]:
    """Pairs of a name and a thing to pairs of a thing and all its places; what is shared stands in several."""
    found: dict[int, tuple] = {}
    for name, thing in named:
        found.setdefault(id(thing), (thing, []))[1].append(parts.place(name))
    return list(found.values())


def follow_requires_grad(wrapper: DistributedDataParallel) -> None:
    """Make DDP reduce the gradients of exactly those parameters that require one now.

    DDP counts them when it is built: one that is frozen later stops it with an error, and one that is thawed later is
    trained by each process on its own, silently. Its pickle protocol is what builds the reducer anew and leaves the
    wrapper, and all who hold it, as they are. Every process has to call it.
    """
    wrapper.__setstate__(wrapper.__getstate__())


def read_stages(stages: list[dict]) -> list[Stage]:
    """The stages of a config, checked as far as that goes without a training."""
    known = [option.name for option in fields(Stage)]
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ValueError(f"StagedTrainingHook: stages is {stages!r}, not a list of dict(until=…, train=[…])")
    for number, options in enumerate(stages, start=1):
        where = f"StagedTrainingHook: stage {number}"
        if not isinstance(options, dict):
            raise ValueError(f"{where} is {options!r}, not dict(until=…, train=[…])")
        for option in options:
            if option not in known:
                near = get_close_matches(str(option), known, n=1, cutoff=0.0)[0]
                raise ValueError(f"{where} has an unknown option {option!r}, did you mean {near!r}?")
        train = options.get("train")
        if not isinstance(train, (list, tuple)) or not train or not all(isinstance(part, str) for part in train):
            raise ValueError(f"{where} has train={train!r}, not a list of parts such as ['fusion', 'neck', 'head']")
        check_end(where, {end: options[end] for end in ENDS if options.get(end) is not None}, number == len(stages))
    return [Stage(**dict(options, train=tuple(options["train"]))) for options in stages]


def check_end(where: str, ends: dict, is_last: bool) -> None:
    if is_last and ends:
        raise ValueError(
            f"{where} is the last and lasts until the end of the training: leave {', '.join(ends)} out, or add the "
            f"stage that follows"
        )
    if not is_last and len(ends) != 1:
        raise ValueError(
            f"{where} needs one of {', '.join(ENDS)}, to say where the next one begins; it has {len(ends)}"
        )
    for end, value in ends.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{where} has {end}={value!r}, which is no number")
        if end == "until" and not 0 < value < 1:
            raise ValueError(
                f"{where} has until={value!r}, which is no fraction between 0 and 1; until_epoch and until_iter count"
            )
        if end != "until" and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{where} has {end}={value!r}, which is not a whole number from 1 up")
