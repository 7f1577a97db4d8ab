"""Fetch a public data set from where it is published: resumed if broken off, checked, unpacked.

  hybrid-dense download voc07 --dry-run        what would be fetched, and whether there is room
  hybrid-dense download coco --to data         → data/coco/{annotations,train2017,val2017}
  hybrid-dense download coco coco-panoptic     → panoptic_train2017, panoptic_val2017 in data/coco/annotations too
  hybrid-dense download voc07 voc12            → data/VOCdevkit/{VOC2007,VOC2012}
  hybrid-dense download ade20k                 → data/ade/ADEChallengeData2016

Without a network: bring the archives to DIR/downloads and run the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser(parser: argparse.ArgumentParser) -> None:
    from hybrid_dense.data.download import DATA_SETS

    parser.add_argument("names", nargs="+", choices=DATA_SETS, metavar="NAME", help=", ".join(DATA_SETS))
    parser.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and fetch nothing")


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.data.download import DATA_SETS, Place, check_room, download

    archives = tuple(archive for name in dict.fromkeys(args.names) for archive in DATA_SETS[name])
    places = [Place(archive, args.to) for archive in archives]
    if args.dry_run:
        show(places, args.to)
        return 0
    check_room(places, args.to)
    with progress_bar() as report:
        download(archives, args.to, report)
    for folder in sorted({args.to / archive.folder / archive.inside for archive in archives}):
        print(f"ready in {folder}")
    return 0


def show(places, root: Path) -> None:
    from hybrid_dense.data.download import free_space, gigabytes
    from hybrid_dense.report.tables import print_table

    rows = []
    for place in places:
        state = "done" if place.finished else f"{place.fetched / place.archive.size:.0%} here"
        rows.append((place.archive.url, gigabytes(place.archive.size), place.archive.digest[:20] + "…", state))
    needed = sum(place.needed for place in places)
    title = f"{gigabytes(needed)} of disk are needed in {root}, {gigabytes(free_space(root))} are free"
    print_table(title, ("file", "size", "checksum", "state"), rows)


def progress_bar():
    """A context that shows one bar a step; it gives the function to report to."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    @contextmanager
    def shown():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn()) as bars:
            tasks = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done)

            yield report

    return shown()
