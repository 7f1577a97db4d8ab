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
from pathlib import Path

EXAMPLE = "ParallelResNeXtViT:rx50_vit_s"


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
    parser.add_argument("--fold", action="store_true", help="with --mode infer: measure every subject a second time, "
                        "BatchNorm folded into its convolutions")  # fmt: skip
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
        from hybrid_dense.cli.benchmark_memory import answer_memory

        return answer_memory(json.loads(args.memory_of))
    if args.subjects + [True] * args.startup and args.pipeline or args.subjects and args.startup:
        raise CommandError("subjects, --pipeline and --startup are three different measurements; choose one")
    if args.no_memory and args.memory_limit is not None:
        raise CommandError("--memory-limit needs to measure memory; leave out --no-memory")
    if args.fold and args.mode != "infer":
        raise CommandError("a folded network cannot be trained; add --mode infer to --fold")
    for name in ("size", "batch", "repeat", "images"):
        if getattr(args, name) < 1:
            raise CommandError(f"--{name} {getattr(args, name)} is not a positive number")
    if args.startup:
        from hybrid_dense.cli.benchmark_startup import measure_startup

        return measure_startup(args)
    if args.pipeline:
        from hybrid_dense.cli.benchmark_pipeline import measure_pipeline

        return measure_pipeline(args)
    return measure_speed(args)


def measure_speed(args: argparse.Namespace) -> int:
    import torch

    import hybrid_dense
    from hybrid_dense.analysis.benchmark import run_benchmark, synchronizer
    from hybrid_dense.analysis.machine import Gemm
    from hybrid_dense.cli.benchmark_memory import memory_measurer
    from hybrid_dense.cli.benchmark_report import GIB, progress_bar, report
    from hybrid_dense.engine.allocator import keep_freed_memory
    from hybrid_dense.engine.precision import use_tf32

    hybrid_dense.register_all_modules()
    device, dtype = choose_device(args.device), None
    dtype = choose_dtype(args.dtype, device)
    use_tf32(True)  # as training does
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
    """The subjects in their order, each once: those named, their trunks, their compiled and folded twins."""
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
            if args.fold:
                subjects[f"{each.name} folded"] = replace(each, name=f"{each.name} folded", folded=True)
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

        work = ModelWorkload(cfg, *settings)
    else:
        work = BackboneWorkload(build(subject), *settings)
    if subject.folded:
        from hybrid_dense.layers.fold import fold_batch_norm

        fold_batch_norm(work.module.eval())
    return work


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
