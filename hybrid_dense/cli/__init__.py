"""The `hybrid-dense` command: one file a command, loaded when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence

from hybrid_dense.cli.console import without_noise
from hybrid_dense.engine.stop import INTERRUPTED, WRONG_INPUT, TrainingStopped, is_misspelt
from hybrid_dense.version import __version__

COMMANDS = {
    "train": "train a config, on CPU or GPU, alone or under a launcher",
    "test": "evaluate a checkpoint: COCO mAP, mIoU, whatever the config's evaluator says",
    "study": "train models × seeds of a task one after another, and say which is better beyond chance",
    "robustness": "evaluate a checkpoint under noise, blur, brightness, JPEG and shift at five strengths",
    "demo": "train, evaluate and draw on embedded scenes, in minutes on a CPU",
    "predict": "run a trained model over images: pictures and a COCO-format JSON",
    "weights": "export a model as one .safetensors file, or show what a checkpoint holds",
    "check-data": "look at a data set before training: what is broken, how classes and sizes spread",
    "benchmark": "speed and memory of backbones, trunks and whole models, side by side; pipelines; start-up",
    "describe": "parameters, GFLOPs and feature shapes of a backbone or of a config's model",
    "new-config": "a ready config for a data set of your own: COCO, VOC or label maps",
    "convert-data": "convert a data set between COCO, VOC and label maps, masks included",
    "download": "fetch COCO, PASCAL VOC or ADE20K from where they are published",
    "configs": "list the configs: task, data set, backbone, size, schedule, what was measured",
    "doctor": "check the installation and name the command that mends it",
}


class CommandError(Exception):
    """Something the user can mend; printed as one line, without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 done and found wanting or failed, 2 wrong use or input.

    A training that stops with everything saved has codes of its own (docs/resilience.md).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="hybrid-dense",
        description="ResNeXt-ViT hybrids for detection and segmentation with MMDetection and MMSegmentation.",
        epilog="`hybrid-dense COMMAND --help` explains a command. Begin with `hybrid-dense demo`.",
    )
    parser.add_argument("--version", action="version", version=f"hybrid-dense {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == called:
            module = importlib.import_module(f"hybrid_dense.cli.{name.replace('-', '_')}")
            command.description = module.__doc__
            module.build_parser(command)
    args = parser.parse_args(arguments)
    with without_noise():
        code = run(module.run, args)
    return end(code)


def run(command, args: argparse.Namespace) -> int:
    """Call a command and turn what a user can mend into one line (HYBRID_DENSE_TRACEBACK=1 shows where it arose)."""
    try:
        return command(args)
    except TrainingStopped as stopped:
        # It has logged its message too, but the last line of a training is to be what goes on with it.
        if os.environ.get("RANK", "0") == "0":
            print(f"hybrid-dense: {stopped}", file=sys.stderr, flush=True)
        return stopped.code
    except KeyboardInterrupt:
        print("hybrid-dense: interrupted", file=sys.stderr)
        return INTERRUPTED
    except RuntimeError as error:
        missing = _missing_ranks(error)
        if not missing or os.environ.get("HYBRID_DENSE_TRACEBACK"):
            raise
        rank, reason = os.environ.get("RANK", "0"), str(error).strip().splitlines()[0]
        print(f"hybrid-dense: error: rank {rank} lost the others: {missing} ({reason})", file=sys.stderr, flush=True)
        sys.last_value = error  # as after any exception: do not wait for the others at the end
        return 1
    except (CommandError, ValueError, OSError, TypeError, KeyError) as error:
        ours = isinstance(error, (TypeError, KeyError)) and not is_misspelt(error)
        if ours or os.environ.get("HYBRID_DENSE_TRACEBACK"):
            raise
        # A KeyError shows its text as Python would write it.
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"hybrid-dense: error: {text}", file=sys.stderr)
        return WRONG_INPUT


def end(code: int) -> int:
    """Return the exit code; a process that has been in a group ends here."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        from hybrid_dense.engine.distributed import end_process

        end_process(code)
    return code


def _missing_ranks(error: RuntimeError) -> str:
    """The processes for which a collective failed, "" where it was another error or nothing is known."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ""
    # gloo raises plain RuntimeErrors.
    if not isinstance(error, distributed.DistError) and not re.search(r"gloo|nccl|process group", str(error), re.I):
        return ""
    from hybrid_dense.engine.hooks.watchdog import name_missing_ranks

    return name_missing_ranks()


def main_of(name: str) -> int:
    """The body of a `tools/<name>.py` shim: ``tools/train.py …`` is ``hybrid-dense train …``."""
    return main([name, *sys.argv[1:]])
