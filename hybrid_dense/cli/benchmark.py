"""Speed and memory of backbones, of their trunks and of whole models, measured side by side in one process.

  hybrid-dense benchmark                                       rx50_vit_s against the sum of its two trunks
  hybrid-dense benchmark ParallelResNeXtViT:rx50_vit_s SerialResNeXtViT:rx50_vit_s:fusion=AddFusion,window=7
  hybrid-dense benchmark cnn:rx50 'dict(type="mmdet.ResNeXt", depth=50, groups=32, base_width=4)' --baseline cnn:rx50
  hybrid-dense benchmark ParallelResNeXtViT:rx50_vit_s --sizes 256 512 1024 2048 --out work_dirs/growth
  hybrid-dense benchmark configs/mask_rcnn_rx50_vit.py --size 1024 --batch 2
  hybrid-dense benchmark --pipeline configs/instance/mask_rcnn_rx50_vit_s_coco_lsj_100e.py
  hybrid-dense benchmark --startup

A SUBJECT is a backbone (class:variant, or class:variant:option=value,…), a trunk alone (cnn:rx50, vit:s), any
registered backbone as a dict, or a config file, which means its whole model. docs/benchmark.md says what each column
means. Measurements take turns, so what else the machine does slows all of them alike; seconds do not carry over to
other machines, ratios nearly do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = "ParallelResNeXtViT:rx50_vit_s"
GIB = 2**30
FIRST_STEP_LIMIT = 600.0
# Where the output is no terminal, a table may be this wide.
WIDTH = 160


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"what to measure (default: {EXAMPLE})")
    parser.add_argument("--part", choices=("backbone", "neck", "model"), help="backbone alone, backbone + neck, or the "
                        "whole model of a config (default: model for a config, else backbone)")  # fmt: skip
    parser.add_argument("--neck", metavar="DICT", help="neck behind every backbone with --part neck (default: the "
                        "config's, else HybridFPN of 256 channels)")  # fmt: skip
    parser.add_argument("--mode", choices=("train", "infer", "both"), default="both")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--size", type=int, default=512, metavar="PIXELS", help="side of the images (default: 512)")
    sizes.add_argument("--sizes", type=int, nargs="+", metavar="PIXELS", help="several sides, and how time and memory "
                       "grow")  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, help="images a step (default: 1)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians count (default: 5)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32, or bfloat16 autocast (default: "
                        "bfloat16 where the hardware computes it)")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--compile", action="store_true", help="measure every subject a second time, compiled")
    parser.add_argument("--against-trunks", action="store_true", help="measure the two trunks of every hybrid too")
    parser.add_argument("--baseline", metavar="SUBJECT", help="add a column: time over that of this subject")
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="leave out sizes whose step needs more "
                        "(default: what is free)")  # fmt: skip
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory; on a CPU that takes a process "
                        "for every subject, mode and size")  # fmt: skip
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the configs")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write benchmark.json and benchmark.png (or "
                        "pipeline.json, startup.json) there")  # fmt: skip
    parser.add_argument("--pipeline", type=Path, metavar="CONFIG", help="measure the config's training pipeline on its "
                        "own data instead: images/s a worker, the share of each transform")  # fmt: skip
    parser.add_argument("--images", type=int, default=100, help="with --pipeline: how many (default: 100)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="with --pipeline: data loaders of so many "
                        "workers (default: 1)")  # fmt: skip
    parser.add_argument("--startup", action="store_true", help="measure instead how long --help, the import and the "
                        "demo's first training step take")  # fmt: skip
    parser.add_argument("--memory-of", metavar="ORDER", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from hybrid_dense.cli import CommandError

    if args.memory_of:
        return answer_memory(json.loads(args.memory_of))
    if args.subjects + [True] * args.startup and args.pipeline or args.subjects and args.startup:
        raise CommandError("subjects, --pipeline and --startup are three different measurements; choose one")
    if args.no_memory and args.memory_limit is not None:
        raise CommandError("--memory-limit needs to measure memory; leave out --no-memory")
    for name in ("size", "batch", "repeat", "images"):
        if getattr(args, name) < 1:
            raise CommandError(f"--{name} {getattr(args, name)} is not a positive number")
    if args.startup:
        return measure_startup(args)
    if args.pipeline:
        return measure_pipeline(args)
    return measure_speed(args)


# ---------------------------------------------------------------------------------------------- speed of networks


def measure_speed(args: argparse.Namespace) -> int:
    import torch

    import hybrid_dense
    from hybrid_dense.analysis.benchmark import run_benchmark, synchronizer
    from hybrid_dense.analysis.machine import Gemm
    from hybrid_dense.engine.allocator import keep_freed_memory

    hybrid_dense.register_all_modules()
    device, dtype = choose_device(args.device), None
    dtype = choose_dtype(args.dtype, device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    subjects = collect(args)
    baseline = find_baseline(args.baseline, subjects)
    order = dict(batch=args.batch, device=device.type, dtype=name_of(dtype), threads=torch.get_num_threads(),
                 cfg_options=args.cfg_options, limit=args.memory_limit and int(args.memory_limit * GIB))  # fmt: skip
    workloads = {subject.name: build_workload(subject, order) for subject in subjects}
    modes = ("train", "infer") if args.mode == "both" else (args.mode,)
    sizes = sorted(set(args.sizes or [args.size]))
    gemm = Gemm(device, dtype)
    with progress_bar() as bar:
        total = len(sizes) * (args.repeat + 1) * (len(gemm.products()) + len(modes) * len(subjects))
        task = bar.add_task("", total=total)
        measure = None if args.no_memory else memory_measurer(subjects, workloads, order, bar, task)
        found = run_benchmark(
            workloads,
            sizes,
            modes,
            args.repeat,
            gemm,
            measure,
            synchronizer(device),
            lambda text: bar.update(task, advance=1, description=text),
        )
    report(found, args, baseline, subjects, device, dtype)
    return 0 if found.rows else 1


def collect(args: argparse.Namespace) -> list:
    """The subjects in their order, each once: those named, their trunks, their compiled twins."""
    from dataclasses import replace

    from hybrid_dense.analysis.subjects import parse_config, parse_subject

    neck = parse_config(args.neck) if args.neck else None
    against = args.against_trunks or not args.subjects
    subjects = {}
    for text in args.subjects or [EXAMPLE]:
        parsed = parse_subject(text)
        if parsed.scope:
            register_scope(parsed.scope)
        subject = fit_part(parsed, args.part, neck, args.cfg_options)
        trunks = parsed.trunks() if against else None
        for each in (subject, *(trunks or ())):
            subjects[each.name] = each
            if args.compile:
                subjects[f"{each.name} compiled"] = replace(each, name=f"{each.name} compiled", compiled=True)
    return list(subjects.values())


def fit_part(subject, part: str | None, neck: dict | None, cfg_options: list[str]):
    """The part of a subject that was asked for."""
    from dataclasses import replace

    from hybrid_dense.analysis.subjects import Subject
    from hybrid_dense.cli import CommandError

    if subject.kind != "model":
        if part == "model":
            raise CommandError(f"--part model needs a config file; {subject.name} is a backbone without a head")
        return subject.with_neck(neck) if part == "neck" else subject
    if part in (None, "model"):
        return subject
    cfg = read_model(subject.path, cfg_options)
    config = cfg.model.to_dict()
    whole = Subject(
        f"{subject.path} {part}", "backbone", config["backbone"], config.get("neck"), scope=cfg.default_scope
    )
    if part == "neck":
        return whole.with_neck(neck)
    return replace(whole, neck=None)


def read_model(path: str, cfg_options: list[str]):
    """A config with its host registered, as every command reads it."""
    from hybrid_dense.cli.session import load_config

    return load_config(argparse.Namespace(config=Path(path), cfg_options=cfg_options, work_dir=None, amp=None))


def register_scope(scope: str) -> None:
    """Import the package of ``mmdet.ResNeXt``, so that its classes are registered."""
    import importlib

    from hybrid_dense.cli import CommandError

    try:
        module = importlib.import_module(f"{scope}.utils")
    except ImportError as error:
        raise CommandError(f"{scope} cannot be imported ({error}); `hybrid-dense doctor` names the mend") from error
    module.register_all_modules(init_default_scope=False)


def find_baseline(name: str | None, subjects: list) -> str | None:
    from hybrid_dense.analysis.subjects import nearest, parse_subject
    from hybrid_dense.cli import CommandError

    names = [subject.name for subject in subjects]
    if name is None or name in names:
        return name
    if name.startswith(("dict(", "{")) and (title := parse_subject(name).name) in names:
        return title
    raise CommandError(f"--baseline {name!r} is not among the subjects, {nearest(name, names)}")


def build_workload(subject, order: dict):
    """The work of a subject on its device."""
    import torch

    from hybrid_dense.analysis.subjects import build
    from hybrid_dense.analysis.workload import BackboneWorkload

    settings = (order["batch"], torch.device(order["device"]), getattr(torch, order["dtype"]), subject.compiled)
    torch.manual_seed(0)
    if subject.kind == "model":
        cfg = read_model(subject.path, order["cfg_options"])

        from hybrid_dense.cli.whole_model import ModelWorkload

        return ModelWorkload(cfg, *settings)
    return BackboneWorkload(build(subject), *settings)


def choose_device(name: str):
    import torch

    from hybrid_dense.cli import CommandError

    if name == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch finds no GPU; `hybrid-dense doctor` says why")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(name: str | None, device):
    """bfloat16 where the device computes it, unless told otherwise."""
    import torch

    from hybrid_dense.engine.precision import computes

    if name is None:
        name = "bfloat16" if computes(device, torch.bfloat16) else "float32"
    return getattr(torch, name)


def name_of(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def progress_bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=Console(stderr=True))


# ---------------------------------------------------------------------------------------------- memory


def memory_measurer(subjects: list, workloads: dict, order: dict, bar, task):
    """A function from (subject, size, mode) to peak bytes: in this process on a GPU, in one of its own on a CPU."""
    import torch

    from hybrid_dense.analysis.machine import free_memory, limit_memory

    device, by_name = torch.device(order["device"]), {subject.name: subject for subject in subjects}
    if device.type == "cuda" and order["limit"]:
        limit_memory(device, order["limit"])

    def measure(name: str, size: int, mode: str) -> tuple[int, int]:
        bar.update(task, description=f"memory of {name}, {mode} at {size}×{size}")
        if device.type == "cuda":
            return measured_here(workloads[name], size, mode)
        limit = order["limit"] or free_memory(device)
        return measured_apart(by_name[name], dict(order, size=size, mode=mode, limit=limit))

    return measure


def measured_here(workload, size: int, mode: str) -> tuple[int, int]:
    import torch

    from hybrid_dense.analysis.benchmark import DoesNotFit
    from hybrid_dense.analysis.machine import is_out_of_memory
    from hybrid_dense.analysis.workload import measure_memory

    try:
        return measure_memory(workload, size, mode)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    raise DoesNotFit("memory ran out")


def measured_apart(subject, order: dict) -> tuple[int, int]:
    from dataclasses import asdict

    from hybrid_dense.analysis.benchmark import DoesNotFit
    from hybrid_dense.analysis.startup import last_line
    from hybrid_dense.cli import CommandError

    text = json.dumps(dict(order, subject=asdict(subject)))
    command = [sys.executable, "-m", "hybrid_dense", "benchmark", "--memory-of", text]
    done = subprocess.run(command, capture_output=True, text=True)
    allowed = f"it may take {order['limit'] / GIB:.1f} GiB"
    if done.returncode < 0:
        raise DoesNotFit(f"its process was ended by signal {-done.returncode}, and {allowed}")
    if done.returncode > 0:
        raise CommandError(f"{subject.name}: {last_line(done.stderr).removeprefix('hybrid-dense: error: ')}")
    found = json.loads(last_line(done.stdout))
    if found is None:
        raise DoesNotFit(f"its step needs more memory; {allowed}")
    return tuple(found)


def answer_memory(order: dict) -> int:
    """Print the bytes that one step takes, or null where it takes more than the limit. Then the process ends."""
    import torch

    import hybrid_dense
    from hybrid_dense.analysis.machine import is_out_of_memory, limit_memory
    from hybrid_dense.analysis.subjects import Subject
    from hybrid_dense.analysis.workload import measure_memory
    from hybrid_dense.engine.allocator import keep_freed_memory

    hybrid_dense.register_all_modules()
    keep_freed_memory()
    torch.set_num_threads(order["threads"])
    subject = Subject(**order["subject"])
    if subject.kind != "model" and subject.scope:
        register_scope(subject.scope)
    workload = build_workload(subject, order)
    limit_memory(torch.device(order["device"]), order["limit"])
    try:
        print(json.dumps(measure_memory(workload, order["size"], order["mode"])))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print("null")
    return 0


# ---------------------------------------------------------------------------------------------- what is said


def report(found, args: argparse.Namespace, baseline: str | None, subjects: list, device, dtype) -> None:
    """Tables, ratios and growth on the terminal; JSON and a picture in the folder."""
    from hybrid_dense.analysis.machine import describe_machine
    from hybrid_dense.report.benchmark_plot import TITLES, save_benchmark_plot

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
    pairs = [(subject.name, tuple(trunk.name + " compiled" * subject.compiled for trunk in subject.trunks() or ()))
             for subject in subjects]  # fmt: skip
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
    from hybrid_dense.analysis.benchmark import ratio

    values = {}
    for name, others in pairs:
        for row in found.rows:
            theirs = [found.find(other, row.mode, row.size) for other in others]
            if row.subject == name and None not in theirs:
                values[name, row.mode, row.size] = ratio(row, *theirs)
    return values


def find_growths(found) -> list[dict]:
    """How time and memory of every subject grow with the side, where two sizes or more were measured."""
    from dataclasses import asdict

    from hybrid_dense.analysis.benchmark import find_growth

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
    from rich import box
    from rich.console import Console
    from rich.table import Table

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


# ---------------------------------------------------------------------------------------------- data pipeline


def measure_pipeline(args: argparse.Namespace) -> int:
    import cv2
    import numpy as np
    import torch
    from mmengine.registry import DATASETS
    from mmengine.runner import Runner

    from hybrid_dense.analysis.machine import describe_machine
    from hybrid_dense.analysis.pipeline import time_loader, time_pipeline
    from hybrid_dense.data.check import check_data

    cfg = read_model(str(args.pipeline), args.cfg_options)
    check_data(cfg, ("train",))
    # As in the worker of a data loader.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    np.random.seed(0)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    order = random.sample(range(len(dataset)), len(dataset))
    chosen = [order[index % len(order)] for index in range(args.images)]
    with progress_bar() as bar:
        task = bar.add_task("transforms", total=args.images)
        times = time_pipeline(dataset, chosen, mask_classes(cfg.default_scope), progress=lambda: bar.advance(task))
    rows = [[step.name, f"{1000 * step.seconds:.2f}", f"{step.seconds / times.seconds:.1%}",
             f"{step.mask_seconds / times.seconds:.1%}"] for step in times.steps]  # fmt: skip
    rows.append(["all", f"{1000 * times.seconds:.2f}", "100%", f"{times.mask_seconds / times.seconds:.1%}"])
    print_rows(f"{args.pipeline}: {times.images} images", ["transform", "ms an image", "share", "of it masks"], rows)
    print(f"one process, transforms alone: {1 / times.seconds:.2f} images/s; {times.refused} images refused")
    loaders = []
    for workers in args.workers:
        settings = dict(num_workers=workers, persistent_workers=workers > 0, dataset=dataset)
        loader = Runner.build_dataloader(dict(cfg.train_dataloader, **settings), seed=0)
        speed = time_loader(loader, args.images)
        loaders.append(dict(workers=workers, images_per_second=speed, a_worker=speed / max(1, workers)))
        print(f"data loader, {workers} workers: {speed:.2f} images/s, {speed / max(1, workers):.2f} a worker")
    if args.out:
        machine = describe_machine(torch.device("cpu"), torch.float32)
        page = dict(**origin(machine), config=str(args.pipeline), transforms=times.record(), loaders=loaders)
        write_json(args.out / "pipeline.json", page)
    return 0


def mask_classes(scope: str) -> tuple[type, ...]:
    """What the host's instance masks are made of."""
    if scope != "mmdet":
        return ()
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    return BitmapMasks, PolygonMasks


# ---------------------------------------------------------------------------------------------- start-up


def measure_startup(args: argparse.Namespace) -> int:
    import torch

    from hybrid_dense.analysis.machine import describe_machine
    from hybrid_dense.analysis.startup import summary, time_command

    script = Path(sys.executable).with_name("hybrid-dense")
    commands = {
        "hybrid-dense --help": [str(script), "--help"],
        "import hybrid_dense": [sys.executable, "-c", "import hybrid_dense"],
        "of it, import torch": [sys.executable, "-c", "import torch"],
    }
    if not script.is_file():
        del commands["hybrid-dense --help"]
        print(f"no {script}: `pip install -e .` makes it; --help is not measured", file=sys.stderr)
    found = {}
    with progress_bar() as bar:
        task = bar.add_task("", total=len(commands) + 1)
        for name, command in commands.items():
            bar.update(task, description=name)
            found[name] = summary(time_command(command, args.repeat))
            bar.advance(task)
        bar.update(task, description="first training step of the demo")
        found["demo, first training step"] = summary([first_step_seconds()])
        bar.advance(task)
    rows = [[name, f"{times['median']:.2f}", f"{times['minimum']:.2f}"] for name, times in found.items()]
    print_rows("seconds from launch", ["", "median", "least"], rows)
    if args.out:
        machine = describe_machine(torch.device("cpu"), torch.float32)
        write_json(args.out / "startup.json", dict(**origin(machine), startup=found))
    return 0


def first_step_seconds() -> float:
    """Seconds from the launch of the demo until its first training step is logged. Its scenes are drawn already."""
    from hybrid_dense.analysis.startup import time_until
    from hybrid_dense.cli.demo import CONFIGS, TASKS

    read_model(str(CONFIGS / TASKS["instance"]), [])  # draws the scenes, which happens once for a machine
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder) / "demo"
        command = [sys.executable, "-m", "hybrid_dense", "demo", "--work-dir", str(work_dir)]
        command += ["--cfg-options", "default_hooks.logger.interval=1"]

        def stepped() -> bool:
            return any(os.path.getsize(log) for log in work_dir.glob("*/vis_data/*.json"))

        return time_until(command, stepped, FIRST_STEP_LIMIT, Path(folder) / "demo.log")
