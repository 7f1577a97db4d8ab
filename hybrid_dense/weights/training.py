"""What a model card says of a training, from its checkpoint and from the figures that were measured after it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_dense.study.results import read_results

METRICS = "metrics.json"
FROM_RUN = ("seed", "commit", "machine", "epochs", "iterations")
OF_A_RUN = (*FROM_RUN, "model", "figures", "metric", "metric_name", "split", "train_minutes")


@dataclass(frozen=True)
class Measured:
    """The figures of a model, and of a study's run what it says of the training; see `ModelCard` for the fields.

    ``file`` is where they are from, None where there are none.
    """

    file: Path | None = None
    metrics: dict = field(default_factory=dict)
    score: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)


def read_measured(checkpoint: Path, metrics: str | Path | None, seed: int | None = None) -> Measured:
    """The figures of a checkpoint.

    Args:
        checkpoint: the weights.
        metrics: a JSON file of figures by name, or the `metrics.json` that a study has published of the run; None takes
            `metrics.json` beside the checkpoint, if there is one.
        seed: of the checkpoint, where it says one.

    Raises:
        FileNotFoundError, ValueError: one line on what is wrong with the file, or that it is of another seed's run.
    """
    path = checkpoint.parent / METRICS if metrics is None else Path(metrics)
    if metrics is None and not path.is_file():
        return Measured()
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"no such metrics: {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no figures by name")
    if "fingerprint" not in content:
        return Measured(path, content)
    if missing := [name for name in OF_A_RUN if name not in content]:
        raise ValueError(f"{path} is not as a study writes it: it lacks {', '.join(missing)}")
    if seed is not None and seed != content["seed"]:
        raise ValueError(f"{path} is of seed {content['seed']}, {checkpoint} of seed {seed}; name the file of its run")
    return Measured(
        path,
        content["figures"],
        dict(name=content["metric_name"], split=content["split"], value=content["metric"]),
        {
            "command": _study_command(path.resolve(), content),
            **{name: content[name] for name in FROM_RUN},
            "minutes": content["train_minutes"],
        },
    )


def _study_command(path: Path, content: dict) -> str:
    """The command that trained the run behind ``<results>/<task>/<model>/seed<k>/metrics.json``."""
    task = path.parent.parent.parent  # not parents[2], which a file near the root does not have
    results = task.parent
    summary = read_results(results).get(task.name, {}).get(content["model"])
    if summary is None:
        raise ValueError(
            f"{results} does not sum up {task.name}, {content['model']}; keep {path.name} where study wrote it"
        )
    return f"hybrid-dense study {summary['study']} --only {content['model']} --seeds {content['seed']}"


def config_name(config) -> dict:
    """`{"config": file}` of an mmengine `Config`: its path below the current folder, else its name; {} without one."""
    filename = getattr(config, "filename", None)
    if not filename:
        return {}
    path = Path(filename).absolute()
    return {"config": str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name}
