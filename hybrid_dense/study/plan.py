"""What a study trains: models × seeds of one task, read from a YAML file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from hybrid_dense.config_file import read_text

CHECKPOINTS = ("final", "best")
SPLITS = ("val", "test")
MODEL_KEYS = ("config", "options", "seeds")
# The parts of a config on which the trained weights and their figures depend, beside the loaders.
_DECIDING = (
    *("model", "train_cfg", "optim_wrapper", "param_scheduler", "custom_hooks", "load_from", "scenes"),
    *("val_evaluator", "test_evaluator", "val_cfg", "test_cfg", "sync_bn", "auto_scale_lr"),
)
_HOW_LOADED = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")


@dataclass(frozen=True)
class Run:
    """One training: a config, its changes and a seed.

    Args:
        task, model, seed: what the run is called; its folders are ``<root>/<task>/<model>/seed<seed>``.
        config: the config file.
        options: changes to the config, key → value, as ``--cfg-options`` takes them.
        processes: in how many it is trained.
    """

    task: str
    model: str
    seed: int
    config: Path
    options: dict = field(default_factory=dict)
    processes: int = 1

    @property
    def name(self) -> str:
        return f"{self.model} seed {self.seed}"

    def folder(self, root: Path) -> Path:
        return root / self.task / self.model / f"seed{self.seed}"

    def option_words(self) -> list[str]:
        """The options as words of a command line."""
        return [f"{key}={_word(value)}" for key, value in self.options.items()]

    def read_config(self) -> Config:
        """The config with its bases and changes; no module that it names is imported."""
        cfg = Config.fromfile(self.config, import_custom_modules=False)
        cfg.merge_from_dict({key.removeprefix("+"): value for key, value in self.options.items()})
        return cfg

    def fingerprint(self) -> str:
        """A hash of what decides the result of a training, wherever the data lie and however they are loaded."""
        cfg = self.read_config()
        loaders = {key: value for key, value in cfg.items() if key.endswith("_dataloader") and value}
        loaders = {
            key: {name: part for name, part in value.items() if name not in _HOW_LOADED}
            for key, value in loaders.items()
        }
        saving = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
        chosen = {key: saving.get(key) for key in ("save_best", "rule")}
        content = {**{key: cfg.get(key) for key in _DECIDING}, **loaders, **chosen, "processes": self.processes}
        text = json.dumps(content, sort_keys=True, default=str)
        # The loaders name the file's folder: a `data_root` among the options reaches them when the config is loaded.
        if root := replace(self, options={}).read_config().get("data_root"):
            text = text.replace(root, "data_root/")
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A study as its YAML file says it.

    Args:
        task: its name in the results, such as ``camvid``.
        metric: the figure that is compared, as the evaluator calls it: ``mIoU``, ``pascal_voc/AP50``.
        models: name → config file (beside the YAML file), or → ``{config: …, options: {key: value}, seeds: […]}``.
        seeds: a training for each; a model may have fewer of them.
        also: further figures of the evaluator that the report shows, on the first split.
        title: the heading in the report; the task's name by default.
        percent: the evaluator gives percent; the results are shares of 1.
        higher_is_better: false for errors.
        splits: the data that the trained models are evaluated on; the first gives the figure that is compared.
        checkpoint: ``final``, or ``best`` on the validation data (the config has to save it: ``save_best``).
        reference: the model that the others are compared with; the first by default.
        minutes: how long one training is meant to take; the results say what it took.
        processes: in which each training runs, on this machine, one a GPU or of one thread each; the configs' batch
            size is that of one process.
        path: the YAML file; not one of its keys.
    """

    task: str
    metric: str
    models: dict[str, dict]
    seeds: tuple[int, ...]
    also: tuple[str, ...] = ()
    title: str = ""
    percent: bool = False
    higher_is_better: bool = True
    splits: tuple[str, ...] = ("val",)
    checkpoint: str = "final"
    reference: str = ""
    minutes: float | None = None
    processes: int = 1
    path: Path | None = None

    @property
    def scale(self) -> float:
        """What a figure of the evaluator is multiplied by."""
        return 0.01 if self.percent else 1.0

    def run(self, model: str, seed: int, options: dict | None = None) -> Run:
        """One of its trainings."""
        entry = self.models[model]
        return Run(self.task, model, seed, entry["config"], {**entry["options"], **(options or {})}, self.processes)

    def runs(
        self, only: Sequence[str] | None = None, seeds: Sequence[int] | None = None, options: dict | None = None
    ) -> list[Run]:
        """The trainings in their order, seed by seed, so that models can be compared from the first seed on.

        Args:
            only: models to take; all by default.
            seeds: seeds to take, of the plan or others; by default each model's own, or the plan's.
            options: changes to every config.

        Raises:
            ValueError: there is no such model.
        """
        for name in only or ():
            if name not in self.models:
                raise ValueError(f"{self.task} has no model {name!r}; there are {', '.join(self.models)}")
        return [
            self.run(name, seed, options)
            for seed in (self.seeds if seeds is None else seeds)
            for name, model in self.models.items()
            if (not only or name in only) and (seeds is not None or seed in model["seeds"])
        ]


def read_plan(path: str | Path) -> Plan:
    """The study in a YAML file, which is data and is parsed as such.

    Raises:
        FileNotFoundError: no such file, or a config that it names is not there.
        ValueError: it is no study; one line says what to mend.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.y*ml"))
        raise FileNotFoundError(f"no such study: {path}" + (f"; there are {', '.join(known)}" if known else ""))
    try:
        content = read_text(path.read_text(encoding="utf-8"), ".yaml")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no study: it holds no names with values")
    _check_keys(content, [entry.name for entry in fields(Plan) if entry.name != "path"], path)
    missing = [key for key in ("task", "metric", "models", "seeds") if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    _check_values(content, path)
    models = {name: _read_model(name, model, content["seeds"], path) for name, model in content["models"].items()}
    content = {
        **content,
        "models": models,
        "path": path,
        "seeds": tuple(content["seeds"]),
        "also": tuple(content.get("also", ())),
        "splits": tuple(content.get("splits", ("val",))),
        "title": content.get("title", content["task"]),
        "reference": content.get("reference", next(iter(models))),
    }
    if content["reference"] not in models:
        raise ValueError(f"{path}: reference {content['reference']!r} is none of the models {', '.join(models)}")
    return Plan(**content)


def _check_keys(content: dict, known: Sequence[str], where: object) -> None:
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unknown key {key!r}; the nearest known is {near!r}")


def _check_values(content: dict, path: Path) -> None:
    def want(key: str, good: bool, what: str) -> None:
        if not good:
            raise ValueError(f"{path}: {key} is {what}, not {content.get(key)!r}")

    for key in ("task", "metric", "title", "reference"):
        want(key, isinstance(content.get(key, ""), str), "a text")
    for key in ("percent", "higher_is_better"):
        want(key, isinstance(content.get(key, False), bool), "true or false")
    want("task", _is_folder_name(content["task"]), "the name of a folder")
    seeds, splits = content["seeds"], content.get("splits", ["val"])
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    want("seeds", whole and len(set(seeds)) == len(seeds), "a list of different whole numbers from 0 up")
    want("splits", isinstance(splits, list) and splits and set(splits) <= set(SPLITS), f"a list of {SPLITS}")
    want("checkpoint", content.get("checkpoint", "final") in CHECKPOINTS, f"one of {CHECKPOINTS}")
    also = content.get("also", [])
    want("also", isinstance(also, list) and all(isinstance(name, str) for name in also), "a list of names of figures")
    processes = content.get("processes", 1)
    want("processes", type(processes) is int and processes > 0, "a whole number from 1 up")
    minutes = content.get("minutes")
    want("minutes", minutes is None or (isinstance(minutes, (int, float)) and minutes > 0), "a number above 0")
    models = content["models"]
    named = isinstance(models, dict) and models and all(_is_folder_name(name) for name in models)
    want("models", named, "names, fit for folders, with configs")


def _read_model(name: str, model: object, seeds: list[int], path: Path) -> dict:
    model = {"config": model} if isinstance(model, str) else model
    if not isinstance(model, dict) or not isinstance(model.get("config"), str):
        raise ValueError(f"{path}: model {name} is a config file, or a config with options, not {model!r}")
    _check_keys(model, MODEL_KEYS, f"{path}: model {name}")
    options = model.get("options") or {}
    if not isinstance(options, dict):
        raise ValueError(f"{path}: the options of model {name} are keys with values, not {options!r}")
    own = model.get("seeds", seeds)
    if not isinstance(own, list) or not own or not all(seed in seeds for seed in own):
        raise ValueError(f"{path}: the seeds of model {name} are some of {seeds}, not {own!r}")
    parts = [key for key, value in options.items() if isinstance(value, dict)]
    if parts:
        raise ValueError(f"{path}: option {parts[0]} of model {name} is a dict; give each value by its dotted key")
    config = path.parent / model["config"]
    if not config.is_file():
        raise FileNotFoundError(f"{path}: the config of model {name} is not there: {config}")
    return dict(config=config, options=options, seeds=own)


def _is_folder_name(name: object) -> bool:
    return isinstance(name, str) and name.replace("-", "_").isidentifier()


def _word(value: object) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, (list, tuple)):
        inner = ",".join(map(_word, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return str(value)
