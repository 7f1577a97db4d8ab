"""Write a ready config for a data set of your own. It asks nothing; the file says why each number is what it is.

  hybrid-dense new-config --coco train.json images/ --val val.json val_images/
  hybrid-dense new-config --voc VOCdevkit/VOC2007 --output voc.py
  hybrid-dense new-config --masks images/ masks/ --classes sky road car --gpus 4 --pretrained
  hybrid-dense train voc.py

Classes, image size, length, batch and learning rate come from the data. Without --val (or VOC's lists) a fifth of the
images, always the same, is held out. What the hosts cannot read as it is, is written beside the config: VOC's boxes as
COCO JSON (so the figure is COCO's mAP), label maps with the numbers 0, 1, … and 255. Without --pretrained a model
starts from random weights, with which a few thousand images do not go far.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = ("detect", "instance", "semantic")


def build_parser(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", nargs=2, type=Path, metavar=("JSON", "IMAGES"), help="COCO annotations and images")
    source.add_argument("--voc", type=Path, metavar="DIR", help="JPEGImages, Annotations and ImageSets in one folder")
    source.add_argument("--masks", nargs=2, type=Path, metavar=("IMAGES", "MASKS"), help="images and label maps")
    parser.add_argument("--val", nargs=2, type=Path, metavar="PATH", help="to validate on: two paths, as for --coco …")
    parser.add_argument("--classes", nargs="+", default=[], help="of label maps: names of 0, 1, …; or a file of names")
    parser.add_argument("--task", choices=TASKS, help="default: what the data is annotated for")
    parser.add_argument("--variant", default="rx50_vit_s", help="of the backbone; rxnano_vit_pico learns on a CPU")
    parser.add_argument("--pretrained", action="store_true", help="start from ImageNet's weights (needs the network)")
    parser.add_argument("--gpus", type=int, default=1, help="that will train it; a CPU counts as one")
    parser.add_argument("--output", type=Path, help="the file to write (default: named after the data)")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.archs import parse_variant
    from hybrid_dense.cli import CommandError
    from hybrid_dense.data.formats.model import Losses
    from hybrid_dense.data.planning.recipe import choose
    from hybrid_dense.data.planning.text import compose
    from hybrid_dense.weights.usual import usual_sources

    parse_variant(args.variant)
    weights = usual_sources(args.variant) if args.pretrained else None
    if args.gpus < 1:
        raise CommandError(f"--gpus {args.gpus}: 1 is the least, and stands for a CPU too")
    output = free_output(args)
    losses = Losses()
    with all_or_nothing(output):
        plan = plan_of(args, output, losses)
        recipe = choose(plan.sizes, plan.splits["train"].images, plan.task, args.gpus)
        output.write_text(compose(plan, recipe, args.variant, weights, output, CONFIGS), encoding="utf-8")
    for line in losses.lines(fields=False):
        print(f"note: {line}")
    counts = ", ".join(f"{split.images} images to {name}" for name, split in plan.splits.items())
    long, short = recipe.scale
    print(f"{plan.task}: {len(plan.classes)} classes, {counts}; {recipe.epochs} epochs at {long} × {short}")
    beside = "".join(f", {path.name}" for path in siblings(output) if path.exists())
    print(f"written: {output}{beside}\nnext:    {training_command(output, args.gpus)}")
    return 0


def training_command(config: Path, gpus: int) -> str:
    """What trains the config, as a shell reads it."""
    if gpus == 1:
        return shlex.join(["hybrid-dense", "train", str(config)])
    project = CONFIGS.parent
    script = (project if project != Path.cwd() else Path()) / "tools/dist_train.sh"
    return shlex.join([str(script), str(config), str(gpus)])


@contextmanager
def all_or_nothing(output: Path) -> Iterator[None]:
    """A folder to write into; what breaks off half-way leaves no file and no new folder."""
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in (output, *siblings(output)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def free_output(args: argparse.Namespace) -> Path:
    """Where the config goes, made sure of before anything is written."""
    from hybrid_dense.cli import CommandError

    if not CONFIGS.is_dir():
        raise CommandError(f"{CONFIGS} is not there; run this from a clone of the project (pip install -e .)")
    output = (args.output or Path(default_name(args))).absolute()
    if output.suffix != ".py":
        raise CommandError(f"--output {output.name}: a config is a .py file")
    taken = [path for path in (output, *siblings(output)) if path.exists()]
    if taken:
        raise CommandError(f"{taken[0]} is there already; name another --output or delete it")
    return output


def siblings(output: Path) -> list[Path]:
    """What may be written beside the config."""
    endings = ("train.json", "val.json", "train.txt", "val.txt", "masks")
    return [output.with_name(f"{output.stem}_{ending}") for ending in endings]


def default_name(args: argparse.Namespace) -> str:
    """``my_data.py`` for ``my-data/``."""
    source = args.voc or (args.coco or args.masks)[0]
    words = "".join(letter if letter.isalnum() else "_" for letter in source.absolute().with_suffix("").name)
    return f"{words.strip('_') or 'data'}.py"


def plan_of(args: argparse.Namespace, output: Path, losses):
    """Read the data set, whatever its format."""
    from hybrid_dense.cli import CommandError
    from hybrid_dense.data.planning.sources import plan_coco, plan_masks, plan_voc

    if args.classes and not args.masks:
        raise CommandError("--classes names the numbers of --masks; the other formats have their own names")
    if args.coco:
        return plan_coco(args.coco, args.val, args.task, output, losses)
    if args.voc:
        if args.val:
            raise CommandError("--val is for --coco and --masks; VOC's lists in ImageSets say what to validate on")
        return plan_voc(args.voc, args.task, output, losses)
    if args.task not in (None, "semantic"):
        raise CommandError(f"label maps are for --task semantic; for {args.task} run convert-data … --to coco first")
    return plan_masks(args.masks, args.val, args.classes, output, losses)
