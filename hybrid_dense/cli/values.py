"""Values of a config that would end a training later, with a traceback or without a word: found before it is built."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry

from hybrid_dense.cli import CommandError


def is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def counts(value: object) -> bool:
    return is_whole(value, 1)


def is_seed(value: object) -> bool:
    return value is None or (is_whole(value, 0) and value < 2**32)


def is_rate(value: object) -> bool:
    """None too: some optimizers find their own."""
    return value is None or (is_number(value) and value >= 0)


def is_interval(value: object) -> bool:
    """Whole, from 1 up; mmengine divides by it, so that 2.0 will do, and infinity."""
    return is_number(value) and value >= 1 and (value == math.inf or value % 1 == 0)


def is_part(value: object) -> bool:
    return value is None or isinstance(value, dict)


LEVELS = ("NOTSET", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")
# Place in the config (* for any one name or index), whether a value fits, what does. A place that is not there is fine.
VALUES: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("model", is_part, "a dict with the model"),
    ("optim_wrapper", is_part, "a dict(optimizer=…)"),
    ("default_hooks", is_part, "a dict of hooks"),
    ("train_cfg", is_part, "a dict, or None"),
    ("val_cfg", is_part, "a dict, or None"),
    ("*_dataloader", is_part, "a dict, or None"),
    ("optim_wrapper.optimizer", is_part, "a dict(type=…, lr=…)"),
    ("optim_wrapper.optimizer.lr", is_rate, "a number from 0 up, such as 1e-4"),
    ("optim_wrapper.optimizer.weight_decay", lambda value: is_number(value) and value >= 0, "a number from 0 up"),
    ("optim_wrapper.accumulative_counts", counts, "a whole number from 1 up; 1 is a step for each batch"),
    ("optim_wrapper.clip_grad.max_norm", lambda value: is_number(value) and value > 0, "a number above 0"),
    ("randomness.seed", is_seed, "a whole number from 0 to 2**32 - 1, or None"),
    ("scenes.train", counts, "a whole number from 1 up"),
    ("scenes.val", counts, "a whole number from 1 up"),
    ("scenes.size", counts, "a whole number of pixels"),
    ("train_cfg.max_epochs", counts, "a whole number from 1 up"),
    ("train_cfg.max_iters", counts, "a whole number from 1 up"),
    (
        "train_cfg.val_interval",
        is_interval,
        "a whole number from 1 up; one beyond the last epoch (or step) validates at the end only",
    ),
    ("*_dataloader.batch_size", counts, "a whole number of images from 1 up"),
    ("*_dataloader.num_workers", lambda value: is_whole(value, 0), "a whole number; 0 loads in the training's process"),
    (
        "default_hooks.checkpoint.interval",
        lambda value: is_interval(value) or value == -1,
        "a whole number from 1 up, or -1 to save nothing on the way",
    ),
    ("default_hooks.logger.interval", counts, "a whole number of steps from 1 up"),
    ("log_level", lambda value: value in LEVELS or is_whole(value, 0), f"one of {', '.join(LEVELS)}"),
)
# Where a class is named, and on which of these registries it is.
TYPES: tuple[tuple[str | Registry, ...], ...] = (
    ("model.type", registry.MODELS),
    ("model.data_preprocessor.type", registry.MODELS),
    ("model.backbone.type", registry.MODELS),
    ("model.neck.type", registry.MODELS),
    ("model.*_head.type", registry.MODELS),
    ("model.roi_head.*_head.type", registry.MODELS),
    ("*_dataloader.dataset.type", registry.DATASETS),
    ("*_dataloader.dataset.pipeline.*.type", registry.TRANSFORMS),
    ("*_dataloader.sampler.type", registry.DATA_SAMPLERS),
    ("*_dataloader.batch_sampler.type", registry.DATA_SAMPLERS),
    ("train_cfg.type", registry.LOOPS),
    ("val_cfg.type", registry.LOOPS),
    ("val_evaluator.type", registry.METRICS, registry.EVALUATOR),
    ("val_evaluator.*.type", registry.METRICS),
    ("optim_wrapper.type", registry.OPTIM_WRAPPERS),
    ("optim_wrapper.optimizer.type", registry.OPTIMIZERS),
    ("optim_wrapper.constructor", registry.OPTIM_WRAPPER_CONSTRUCTORS),
    ("param_scheduler.type", registry.PARAM_SCHEDULERS),
    ("param_scheduler.*.type", registry.PARAM_SCHEDULERS),
    ("default_hooks.*.type", registry.HOOKS),
    ("custom_hooks.*.type", registry.HOOKS),
    ("visualizer.type", registry.VISUALIZERS),
    ("log_processor.type", registry.LOG_PROCESSORS),
)


def check_values(cfg: Config) -> None:
    """Compare what a training reads of a config with the two tables; its host has to be registered.

    Raises:
        CommandError: a value that does not fit or a class that is not registered; one line with the key, the value and
            what fits.
    """
    read = {name: part for name, part in cfg._cfg_dict.items() if not name.startswith("test_")}
    for pattern, fits, wanted in VALUES:
        for key, value in places(read, pattern):
            if not fits(value):
                raise CommandError(f"{key}={value!r} does not fit; give {wanted}")
    for pattern, *roots in TYPES:
        for key, name in places(read, pattern):
            if isinstance(name, str):  # a config may give the class itself
                check_type(key, name, roots)


def check_type(key: str, name: str, roots: list[Registry]) -> None:
    """Raise CommandError where none of these registries has a class of this name; it names those that are spelt alike.

    ``name`` may begin with the package that has it, as in "mmpretrain.ResNet".
    """
    known: list[str] = []
    for root in roots:
        with root.switch_scope_and_registry(None) as scoped:
            if scoped.get(name) is not None:
                return
            known += [known for kept in (scoped, *parents(scoped)) for known in kept.module_dict]
    package, _, plain = name.rpartition(".")
    near = get_close_matches(plain, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "misspelt, or custom_imports lacks its module"
    if package and not importlib.util.find_spec(package.partition(".")[0]):
        hint = f"{package} is not installed"
    raise CommandError(f"{key}={name!r}: no such {roots[0].name} is registered; {hint}")


def parents(child: Registry) -> Iterator[Registry]:
    while child.parent is not None:
        child = child.parent
        yield child


def places(node: object, pattern: str, done: str = "") -> Iterator[tuple[str, object]]:
    """``(dotted key, value)`` of everything in a config that a pattern names."""
    first, _, rest = pattern.partition(".")
    if isinstance(node, dict):
        # A class that says whose it is may be of a host that is not looked through here.
        parts = [] if pattern == "type" and "_scope_" in node else list(node.items())
    else:
        parts = [(str(index), value) for index, value in enumerate(node)] if isinstance(node, (list, tuple)) else []
    for name, value in parts:
        if fnmatchcase(name, first):
            key = f"{done}{name}"
            yield from places(value, rest, f"{key}.") if rest else [(key, value)]
