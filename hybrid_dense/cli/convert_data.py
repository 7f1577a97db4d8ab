"""Convert a data set between COCO, PASCAL VOC and folders of label maps, images, boxes and masks.

  hybrid-dense convert-data VOCdevkit/VOC2007 voc_as_coco --from voc --to coco
  hybrid-dense convert-data data/coco coco_as_voc --from coco --to voc --link
  hybrid-dense convert-data camvid camvid_as_coco --from masks --to coco --classes sky building pole …

What the other format has no place for is counted and printed. Images are copied as they are, never decoded.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

FORMATS = ("coco", "voc", "masks")


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of the data set; for COCO also one annotation file")
    parser.add_argument("target", type=Path, help="a new or empty folder")
    parser.add_argument("--from", dest="source_format", choices=FORMATS, required=True)
    parser.add_argument("--to", dest="target_format", choices=FORMATS, required=True)
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="of label maps: names of 0, 1, …; or a file of names"
    )
    parser.add_argument("--link", action="store_true", help="point to the images instead of copying them")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError
    from hybrid_dense.data.formats.model import Losses

    if args.classes and args.source_format != "masks":
        raise CommandError(f"--classes names the numbers of label maps; {args.source_format} has its own names")
    if args.target.exists() and (not args.target.is_dir() or any(args.target.iterdir())):
        raise CommandError(f"{args.target} is not empty; name a new folder")
    losses = Losses()
    dataset = read(args.source, args.source_format, args.classes, losses)
    # A sibling that is renamed at the end: what breaks off half-way leaves nothing that looks whole.
    partial = args.target.absolute().with_name(f".{args.target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(dataset, partial, args.target_format, losses, args.link)
        if args.target.exists():
            args.target.rmdir()
        os.replace(partial, args.target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for split, records in dataset.splits.items():
        instances = sum(len(record.instances) for record in records)
        print(f"{split}: {len(records)} images" + (f", {instances} objects" if instances else ""))
    print(f"{len(dataset.categories)} classes; written to {args.target}")
    for line in losses.lines():
        print(f"not kept: {line}")
    return 0


def read(source: Path, source_format: str, classes: list[str], losses):
    """The data set at ``source``."""
    from hybrid_dense.data.formats.coco import read_coco
    from hybrid_dense.data.formats.masks import class_names, read_masks
    from hybrid_dense.data.formats.voc import read_voc

    if not source.exists():
        raise FileNotFoundError(f"no such folder or file: {source}")
    if source_format == "masks":
        return read_masks(source, losses, class_names(classes))
    return {"coco": read_coco, "voc": read_voc}[source_format](source, losses)


def write(dataset, target: Path, target_format: str, losses, link: bool) -> None:
    from hybrid_dense.data.formats.coco import write_coco
    from hybrid_dense.data.formats.masks import write_masks
    from hybrid_dense.data.formats.voc_writer import write_voc

    {"coco": write_coco, "voc": write_voc, "masks": write_masks}[target_format](dataset, target, losses, link)
