"""What `hybrid-dense benchmark` prints and writes: progress, tables, ratios, growth, JSON, a picture."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hybrid_dense.analysis.benchmark import find_growth, ratio
from hybrid_dense.analysis.machine import describe_machine
from hybrid_dense.report.benchmark_plot import TITLES, save_benchmark_plot

GIB = 2**30
# Where the output is no terminal, a table may be this wide.
WIDTH = 160


def progress_bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=Console(stderr=True))


def report(found, args: argparse.Namespace, baseline: str | None, subjects: list, device, dtype) -> None:
    """Tables, ratios and growth on the terminal; JSON and a picture in the folder."""
    for line in found.skipped:
        print(line, file=sys.stderr)
    machine = describe_machine(device, dtype)
    records = [row.record(found.gemm_rate) for row in found.rows]
    over = {}
    if baseline is not None:
        over = ratios(found, [(row.subject, (baseline,)) for row in found.rows])
        for row, record in zip(found.rows, records, strict=True):
            record["over_baseline"] = over.get((row.subject, row.mode, row.size))
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    print(f"{where}, {machine['dtype']}, batch {args.batch}, medians of {args.repeat} rounds; matrix product: "
          f"{found.gemm_rate / 1e9:.0f} GFLOP/s")  # fmt: skip
    for mode, title in TITLES.items():
        chosen = [record for record in records if record["mode"] == mode]
        if chosen:
            print_speed(title, chosen, baseline)
    pairs = []
    for subject in subjects:
        twin = " compiled" * subject.compiled + " folded" * subject.folded
        pairs.append((subject.name, tuple(trunk.name + twin for trunk in subject.trunks() or ())))
    trunk_ratios = ratios(found, [(name, trunks) for name, trunks in pairs if trunks])
    for (name, mode, size), value in trunk_ratios.items():
        print(f"{name} over the sum of its trunks ({' + '.join(dict(pairs)[name])}), {TITLES[mode]}, {size}×{size}: "
              f"{value:.3f}")  # fmt: skip
    growths = find_growths(found)
    if growths:
        print_growth(growths)
    if args.out:
        named = ("subject", "mode", "size", "ratio")
        page = dict(
            **origin(machine),
            repeat=args.repeat,
            gemm=dict(flops_per_second=found.gemm_rate, flops=found.gemm_flops, seconds=found.gemm_seconds),
            subjects={subject.name: dict(kind=subject.kind, config=subject.config, neck=subject.neck)
                      for subject in subjects},
            results=records,
            baseline=baseline,
            over_trunks=[dict(zip(named, (*key, value), strict=True)) for key, value in trunk_ratios.items()],
            growth=growths,
            skipped=found.skipped,
        )  # fmt: skip
        write_json(args.out / "benchmark.json", page)
        if records:
            print(save_benchmark_plot(records, args.out / "benchmark.png"))


def ratios(found, pairs: list[tuple[str, tuple[str, ...]]]) -> dict[tuple[str, str, int], float]:
    """(subject, mode, size) to time over that of the others together, wherever all of them were measured."""
    values = {}
    for name, others in pairs:
        for row in found.rows:
            theirs = [found.find(other, row.mode, row.size) for other in others]
            if row.subject == name and None not in theirs:
                values[name, row.mode, row.size] = ratio(row, *theirs)
    return values


def find_growths(found) -> list[dict]:
    """How time and memory of every subject grow with the side, where two sizes or more were measured."""
    growths = []
    for subject, mode in dict.fromkeys((row.subject, row.mode) for row in found.rows):
        rows = [row for row in found.rows if (row.subject, row.mode) == (subject, mode)]
        measured = {"time": [row.median for row in rows], "memory": [row.step_memory for row in rows]}
        for quantity, values in measured.items():
            if len(rows) > 1 and all(values):
                growth = asdict(find_growth([row.size for row in rows], values))
                growths.append(dict(subject=subject, mode=mode, quantity=quantity, **growth))
    return growths


def print_speed(title: str, records: list[dict], baseline: str | None) -> None:
    header = ["subject", "size", "ms", "spread", "images/s", "of GEMM", "GFLOPs", "params (M)", "GiB", "step GiB"]
    rows = []
    for record in records:
        rows.append([
            record["subject"],
            str(record["size"]),
            f"{1000 * record['median']:.1f}",
            "–" if record["spread"] is None else f"{record['spread']:.0%}",
            f"{record['images_per_second']:.2f}",
            f"{record['gemm_share']:.0%}",
            f"{record['gflops']:.1f}",
            f"{record['parameters'] / 1e6:.2f}",
            *("–" if record[name] is None else f"{record[name] / GIB:.2f}" for name in ("memory", "step_memory")),
        ])  # fmt: skip
        if baseline is not None:
            value = record["over_baseline"]
            rows[-1].append("–" if value is None else f"{value:.3f}")
    print_rows(title, header + ([f"÷ {baseline}"] if baseline is not None else []), rows)


def print_growth(growths: list[dict]) -> None:
    rows = []
    for growth in growths:
        sizes = growth["sizes"]
        steps = [
            f"{small}→{large}: × {factor:.2f} (exponent {exponent:.2f})"
            for small, large, factor, exponent in zip(
                sizes, sizes[1:], growth["factors"], growth["exponents"], strict=False
            )
        ]
        rows.append(
            [growth["subject"], growth["mode"], growth["quantity"], "\n".join(steps), f"{growth['overall']:.2f}"]
        )
    print_rows("growth with the side of the image", ["subject", "mode", "of", "step by step", "exponent"], rows)


def print_rows(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table as wide as it must be: where the output is no terminal, nothing may be cut off."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table, markup=False)


def origin(machine: dict) -> dict:
    """What made the figures: machine, date, command, commit."""
    here = Path(__file__).parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True)
        commit = done.stdout.strip() if done.returncode == 0 else None
    except FileNotFoundError:
        commit = None
    return dict(
        machine=machine,
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=shlex.join(["hybrid-dense", *sys.argv[1:]]),
        commit=commit,
    )


def write_json(path: Path, page: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(page, indent=1, ensure_ascii=False, default=str) + "\n")
    print(path)
