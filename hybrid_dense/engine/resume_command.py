"""The command that goes on with a training, as its user called it: alone, under torchrun or under Slurm."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Options that the launchers set, or that the command sets anew, and whether a value may follow.
_DROPPED = ("--resume", "--launcher", "--local-rank", "--local_rank")


def resume_command(
    dumped_config: Path | None = None, argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """One line for a shell in the folder where this process was started.

    Args:
        dumped_config: the complete config that the runner wrote into its work folder; trained instead where this
            process is no `train` (the demo, a script of one's own), since only `train` knows ``--resume``.
        argv: default `sys.argv`.
        environment: default `os.environ`.
    """
    script, *arguments = sys.argv if argv is None else argv
    environment = os.environ if environment is None else environment
    launcher = _value_of("--launcher", arguments) or ("pytorch" if "TORCHELASTIC_RUN_ID" in environment else "none")

    program = ["python", _shorten(script)]
    if Path(script).name == "hybrid-dense":
        program = ["hybrid-dense"] if shutil.which("hybrid-dense") else [_shorten(script)]
    if Path(script).name == "__main__.py":
        program = ["python", "-m", Path(script).parent.name]
    if arguments[:1] == ["train"]:
        program, arguments = [*program, "train"], arguments[1:]
    elif Path(script).name != "train.py" and dumped_config is not None:
        program, arguments = ["python", "-m", "hybrid_dense", "train"], [_shorten(dumped_config)]
    arguments = [*_without(_DROPPED, arguments), "--resume", "auto"]

    settings = []
    if launcher == "slurm":
        settings = [("GPUS", "SLURM_NTASKS"), ("GPUS_PER_NODE", "SLURM_NTASKS_PER_NODE")]
        names = [environment.get(name, name) for name in ("SLURM_JOB_PARTITION", "SLURM_JOB_NAME")]
        program = [_beside(script, "slurm_train.sh"), *names]
    elif launcher == "pytorch":
        if environment.get("NNODES", "1") != "1":
            settings = [(name, name) for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "PORT")]
        config, *arguments = arguments
        program = [_beside(script, "dist_train.sh"), config, environment.get("LOCAL_WORLD_SIZE", "1")]
    prefix = [f"{name}={shlex.quote(environment[source])} " for name, source in settings if source in environment]
    return "".join(prefix) + shlex.join([*program, *arguments])


def command_of(runner) -> str:
    """The command that goes on with the training of this runner, whoever started it."""
    return resume_command(Path(runner.work_dir, Path(runner.cfg.filename or "config.py").name))


def _value_of(option: str, arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _without(options: Sequence[str], arguments: list[str]) -> list[str]:
    """The arguments less these options and their values; an option may stand without a value."""
    kept, after_option = [], False
    for argument in arguments:
        name, separator, _ = argument.partition("=")
        if name in options:
            after_option = not separator
        elif after_option and not argument.startswith("-"):
            after_option = False
        else:
            kept.append(argument)
            after_option = False
    return kept


def _beside(script: str, name: str) -> str:
    """A script of tools/, beside the one that runs; from a package that was called with -m, by its place in a clone."""
    found = Path(script).with_name(name)
    return _shorten(found) if found.is_file() else f"tools/{name}"


def _shorten(path: str | Path) -> str:
    """Relative to this folder where the path lies in it."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
