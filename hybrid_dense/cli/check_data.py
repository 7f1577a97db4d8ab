"""Look at a data set before training on it: a table, a JSON with every finding, and a page with pictures.

hybrid-dense check-data configs/demo.py
hybrid-dense check-data configs/tiny_coco.py --cfg-options data_root=my_coco/
hybrid-dense check-data my_data/ --split train --limit 1000       COCO, VOC, or images/ and masks/

DIR/findings.json, DIR/index.html. Exit code: 0 fine, 1 errors were found, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

PICTURES = 8  # of each kind of finding on the page
EXAMPLES = 2  # of each kind in the terminal


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", type=Path, help="config file, or a folder in COCO or VOC layout or of images and masks"
    )
    parser.add_argument(
        "--split", nargs="+", metavar="NAME", help="only these: train, val, test, or as the folder says"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="look at N images of a split, evenly spread")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default data_check/<name>")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config, as for train"
    )


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli.training_samples import training_samples
    from hybrid_dense.data.checks.examine import examine

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit {args.limit} is not a positive number of images")
    out = args.out or Path("data_check") / (args.target.resolve().stem or "root")
    cfg, splits = read(args)
    with progress_bar() as progress:
        report = examine(splits, limit=args.limit, progress=progress)
    print_report(report)
    print(f"written: {write_json(out / 'findings.json', args.target, report)}")
    samples = training_samples(cfg) if cfg else []
    print(f"written: {write_html(out / 'index.html', args.target, report, samples)}")
    return 1 if report.errors else 0


def read(args: argparse.Namespace) -> tuple:
    """(config or None, splits) of what the command line names."""
    from hybrid_dense.data.checks.read_config import SPLITS, read_config
    from hybrid_dense.data.checks.read_folder import read_folder

    if args.target.is_dir():
        if args.cfg_options:
            raise ValueError(f"--cfg-options changes a config, but {args.target} is a folder")
        cfg, splits = None, read_folder(args.target)
        known = [split.name for split in splits]
    else:
        from hybrid_dense.cli.session import load_config

        args.config, args.work_dir, args.amp = args.target, None, None
        cfg, known = load_config(args), list(SPLITS)
    unknown = [name for name in args.split or () if name not in known]
    if unknown:
        raise ValueError(f"--split {unknown[0]} is not there; there are {', '.join(known)}")
    if cfg is None:
        return None, [split for split in splits if not args.split or split.name in args.split]
    return cfg, read_config(cfg, tuple(args.split or SPLITS))


@contextmanager
def progress_bar():
    """A function of (done, total) that moves a bar on the terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("look"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("look", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_report(report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from hybrid_dense.data.checks.table import CHECKS

    console = Console()
    numbers = Table("split", "images", "annotated", "objects", "classes with least and most")
    for survey in report.surveys:
        counts = sorted(survey.classes.items(), key=lambda item: item[1])
        ends = [f"{name} {count:,}" for name, count in dict([*counts[:1], *counts[-1:]]).items()]
        said = f"{' … '.join(ends)} {survey.unit}" if ends else ""
        cells = (survey.split, survey.images, survey.annotated, survey.objects, said)
        numbers.add_row(*(escape(str(cell)) for cell in cells))
    console.print(numbers)
    table = Table("finding", "severity", "count", Column("first", overflow="fold"))
    for check in CHECKS:
        found = report.of(check)
        if found:
            first = "\n".join(f"{item.split}: {Path(item.file).name}: {item.message}" for item in found[:EXAMPLES])
            table.add_row(check.kind, check.severity, str(len(found)), escape(first))
    if report.findings:
        console.print(table)
    partly = f" of {report.images}" if report.looked < report.images else ""
    console.print(f"{report.looked}{partly} images: {len(report.findings)} findings, {report.errors} of them errors")


def write_json(path: Path, target: Path, report) -> Path:
    """Everything that was found, as strict JSON."""
    content = {
        "target": str(target),
        "looked": report.looked,
        "images": report.images,
        "errors": report.errors,
        "findings": [finding.to_json() for finding in report.findings],
        "splits": [asdict(survey) for survey in report.surveys],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False))
    return path


def write_html(path: Path, target: Path, report, samples: list) -> Path:
    from hybrid_dense.data.checks.table import CHECKS
    from hybrid_dense.report.data_page import Chart, Picture, Section, draw_thumbnail, write_page

    sections = []
    for check in CHECKS:
        found = report.of(check)
        pictures = tuple(
            Picture(draw_thumbnail(Path(item.file), item.box), f"{item.split}: {item.file}: {item.message}")
            for item in found[:PICTURES]
        )
        if found:
            sections.append(Section(check.kind, check.severity, check.meaning, len(found), pictures))
    charts = []
    for survey in report.surveys:
        charts.append(Chart(f"{survey.split}: {survey.unit} of each class", survey.classes))
        charts.append(Chart(f"{survey.split}: images by longer side in pixels", survey.image_sides))
        charts.append(Chart(f"{survey.split}: objects by √area in pixels", survey.object_sides))
    lead = (
        f"{report.looked} of {report.images} images looked at; {len(report.findings)} findings, {report.errors} errors"
    )
    return write_page(
        path, f"Data check: {target}", lead, sections, [chart for chart in charts if chart.counts], samples
    )
