"""What `hybrid-dense benchmark` measures, prints and writes. Times are whatever they are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_dense.analysis.machine import GEMM_SIDES
from hybrid_dense.cli import main
from hybrid_dense.cli.benchmark_report import find_growths, ratios
from hybrid_dense.report.benchmark_plot import largest_common_size, save_benchmark_plot

PROJECT = Path(__file__).parents[2]
PNG = b"\x89PNG"
NANO = "ParallelResNeXtViT:rxnano_vit_pico"
SMALL = (
    "scenes.train=8",
    "scenes.val=4",
    "scenes.size=96",
    "train_dataloader.batch_size=2",
    "train_dataloader.persistent_workers=False",
)


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """A matrix product of a millisecond, and the allocator of the test process as it is."""
    monkeypatch.setitem(GEMM_SIDES, "cpu", 64)
    monkeypatch.setattr("hybrid_dense.engine.allocator.keep_freed_memory", lambda: True)


def benchmark(capsys, *arguments):
    code = main(["benchmark", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


QUICK = ("--no-memory", "--repeat", "1", "--size", "64", "--device", "cpu")


def test_a_hybrid_beside_its_trunks(capsys, tmp_path):
    arguments = [NANO, "--against-trunks", "--baseline", "cnn:rxnano", "--out", tmp_path]
    code, out, err = benchmark(capsys, *arguments, *QUICK)
    assert code == 0, err
    page = json.loads((tmp_path / "benchmark.json").read_text())
    names = [NANO, "cnn:rxnano", "vit:pico"]
    results = {(row["subject"], row["mode"]): row for row in page["results"]}
    assert set(results) == {(name, mode) for name in names for mode in ("train", "infer")}
    for (name, mode), row in results.items():
        assert (row["size"], row["batch"], row["memory"]) == (64, 1, None)
        assert row["gflops"] == pytest.approx((3 if mode == "train" else 1) * results[name, "infer"]["gflops"])
        assert row["median"] == row["minimum"] == row["seconds"][0] > 0
        assert row["gemm_share"] == pytest.approx(
            1e9 * row["gflops"] / row["median"] / page["gemm"]["flops_per_second"]
        )
        assert row["over_baseline"] == pytest.approx(row["median"] / results["cnn:rxnano", mode]["median"])
    for over in page["over_trunks"]:
        parts = [results[name, over["mode"]]["median"] for name in names]
        assert over["ratio"] == pytest.approx(parts[0] / (parts[1] + parts[2]))
        assert f"{over['ratio']:.3f}" in out
    assert [over["mode"] for over in page["over_trunks"]] == ["train", "infer"]
    assert page["machine"]["device"] == "cpu"
    assert page["machine"]["torch"] and page["date"] and page["command"].startswith("hybrid-dense")
    assert {"training step", "inference"} <= set(re.findall(r"^(training step|inference)", out, flags=re.MULTILINE))
    assert (tmp_path / "benchmark.png").read_bytes().startswith(PNG)


def test_sizes_give_the_growth(capsys, tmp_path):
    arguments = ["vit:pico", "--sizes", 96, 64, "--mode", "infer", "--no-memory", "--repeat", 1, "--device", "cpu"]
    code, out, _ = benchmark(capsys, *arguments, "--out", tmp_path)
    assert code == 0
    page = json.loads((tmp_path / "benchmark.json").read_text())
    (growth,) = page["growth"]
    small, large = (row["median"] for row in page["results"])
    assert (growth["sizes"], growth["quantity"], growth["mode"]) == ([64, 96], "time", "infer")
    assert growth["factors"] == pytest.approx([large / small])
    assert growth["exponents"] == pytest.approx([growth["overall"]])
    assert "64→96" in out


def test_memory_is_measured_in_a_process_of_its_own(command, tmp_path):
    arguments = ["vit:pico", "--sizes", 384, 1024, "--mode", "train", "--repeat", 1, "--device", "cpu"]
    done = command("benchmark", *arguments, "--memory-limit", "0.1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = json.loads((tmp_path / "benchmark.json").read_text())
    (row,) = page["results"]
    assert row["size"] == 384
    # Weights and gradients of a half million parameters, and what 24 × 24 tokens of 96 channels leave behind.
    assert row["memory"] - row["step_memory"] == pytest.approx(2 * 4 * row["parameters"], rel=0.05)
    assert 10e6 < row["step_memory"] < 107e6
    (line,) = page["skipped"]
    assert line == "vit:pico, train at 1024×1024 is left out: its step needs more memory; it may take 0.1 GiB"
    assert line in done.stderr


def test_a_backbone_and_its_neck(capsys, tmp_path):
    neck = 'dict(type="HybridFPN", out_channels=32)'
    benchmark(capsys, NANO, "--part", "neck", "--neck", neck, "--mode", "infer", *QUICK, "--out", tmp_path)
    with_neck = json.loads((tmp_path / "benchmark.json").read_text())
    benchmark(capsys, NANO, "--mode", "infer", *QUICK, "--out", tmp_path)
    alone = json.loads((tmp_path / "benchmark.json").read_text())
    # Four laterals from 64, 128, 256, 512 channels and four 3×3 convolutions, with bias.
    expected = sum(channels * 32 + 32 for channels in (64, 128, 256, 512)) + 4 * (9 * 32 * 32 + 32)
    assert with_neck["results"][0]["parameters"] - alone["results"][0]["parameters"] == expected
    assert with_neck["subjects"][NANO]["neck"]["out_channels"] == 32


def test_a_peer_of_a_host_stands_beside_ours(capsys, tmp_path):
    peer = 'dict(type="mmdet.ResNeXt", depth=50, groups=32, base_width=4)'
    arguments = ["cnn:rx50", peer, "--baseline", peer, *QUICK, "--mode", "infer", "--out", tmp_path]
    code, _, err = benchmark(capsys, *arguments)
    assert code == 0, err
    ours, theirs = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert theirs["subject"] == "mmdet.ResNeXt(depth=50, groups=32, base_width=4)"
    assert ours["gflops"] == pytest.approx(theirs["gflops"])
    assert (ours["over_baseline"], theirs["over_baseline"]) == (pytest.approx(ours["median"] / theirs["median"]), 1.0)


def test_a_folded_twin_stands_beside_the_plain_one(capsys, tmp_path):
    arguments = [NANO, "--against-trunks", "--fold", "--mode", "infer", "--out", tmp_path]
    code, _, err = benchmark(capsys, *arguments, *QUICK)
    assert code == 0, err
    page = json.loads((tmp_path / "benchmark.json").read_text())
    names = [row["subject"] for row in page["results"]]
    assert names == [f"{name}{twin}" for name in (NANO, "cnn:rxnano", "vit:pico") for twin in ("", " folded")]
    plain, folded = (row["parameters"] for row in page["results"][2:4])
    assert folded < plain  # a bias a channel in place of a scale and a shift
    assert [over["subject"] for over in page["over_trunks"]] == [NANO, f"{NANO} folded"]


def test_whole_models_take_real_steps(command, tmp_path):
    paths = [PROJECT / "configs/demo.py", PROJECT / "configs/demo_semantic.py"]
    arguments = [*paths, "--cfg-options", *SMALL, "--size", 96, "--batch", 2, "--repeat", 1, "--no-memory"]
    done = command("benchmark", *arguments, "--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = json.loads((tmp_path / "benchmark.json").read_text())
    results = {(Path(row["subject"]), row["mode"]): row for row in page["results"]}
    assert set(results) == {(path, mode) for path in paths for mode in ("train", "infer")}
    assert {subject["kind"] for subject in page["subjects"].values()} == {"model"}
    for path in paths:
        assert results[path, "train"]["gflops"] == pytest.approx(3 * results[path, "infer"]["gflops"])


@pytest.mark.slow
def test_a_whole_model_costs_what_describe_says(command, tmp_path):
    """A segmentor's operations are the same for every image; a detector's heads see as many boxes as it finds."""
    path = PROJECT / "configs/demo_semantic.py"
    options = ["--mode", "infer", *QUICK[:-4], "--size", 96, "--batch", 2, "--out", tmp_path]
    done = command("benchmark", path, *options, "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    described = command("describe", path, "--size", 96, "--cfg-options", *SMALL)
    total = next(line for line in described.stdout.splitlines() if line.startswith("│ total"))
    parameters, gflops = map(float, re.findall(r"[\d.]+", total))
    assert row["parameters"] / 1e6 == pytest.approx(parameters, abs=0.006)
    assert row["gflops"] == pytest.approx(2 * gflops, abs=0.11)


@pytest.mark.slow
def test_parts_of_a_config(command, tmp_path):
    path = PROJECT / "configs/demo.py"
    options = [*QUICK, "--mode", "infer", "--cfg-options", *SMALL, "--out", tmp_path]
    sizes = {}
    for part in ("backbone", "neck"):
        done = command("benchmark", path, "--part", part, *options)
        assert done.returncode == 0, done.stderr[-2000:]
        (row,) = json.loads((tmp_path / "benchmark.json").read_text())["results"]
        assert row["subject"] == f"{path} {part}"
        sizes[part] = row["parameters"]
    assert sizes["backbone"] < sizes["neck"] < 2 * sizes["backbone"]


def test_a_pipeline_transform_by_transform(command, tmp_path):
    path = PROJECT / "configs/demo.py"
    arguments = ["--pipeline", path, "--images", 6, "--workers", 0, 1, "--out", tmp_path]
    done = command("benchmark", *arguments, "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    page = json.loads((tmp_path / "pipeline.json").read_text())
    steps = page["transforms"]["transforms"]
    assert [step["name"] for step in steps] == [
        *("LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackDetInputs"),
        "to the main process",
    ]
    assert sum(step["share"] for step in steps) == pytest.approx(1)
    parts = {step["name"]: step["parts"] for step in steps}
    assert parts["LoadImageFromFile"]["masks"] == 0 < parts["LoadAnnotations"]["masks"]
    assert parts["LoadAnnotations"]["decode"] == 0 < parts["LoadImageFromFile"]["decode"]
    assert all(sum(step["parts"].values()) <= step["seconds"] for step in steps)
    assert list(page["transforms"]["shares"]) == ["decode", "resize", "masks", "rest"]
    assert sum(page["transforms"]["shares"].values()) == pytest.approx(1)
    assert page["transforms"]["images"] + page["transforms"]["refused"] == 6
    assert [loader["workers"] for loader in page["loaders"]] == [0, 1]
    assert all(loader["images_per_second"] > 0 for loader in page["loaders"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ParalelResNeXtViT:rx50_vit_s"], ["unknown subject", "did you mean 'ParallelResNeXtViT'"]),
        ([NANO, "--baseline", "cnn:rxnan"], ["--baseline 'cnn:rxnan'", NANO]),
        ([NANO, "--part", "model"], ["--part model needs a config", NANO]),
        ([NANO, "--startup"], ["choose one"]),
        ([NANO, "--pipeline", "configs/demo.py"], ["choose one"]),
        (["--startup", "--pipeline", "configs/demo.py"], ["choose one"]),
        ([NANO, "--no-memory", "--memory-limit", "3"], ["leave out --no-memory"]),
        ([NANO, "--fold"], ["add --mode infer to --fold"]),
        ([NANO, "--batch", "0"], ["--batch 0 is not a positive number"]),
        (["dict(type='nowhere.ResNet')"], ["nowhere cannot be imported"]),
        (["configs/demoo.py"], ["no config file"]),
    ],
)
def test_wrong_use_is_one_line(capsys, arguments, words):
    code, _, err = benchmark(capsys, *arguments)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert [word for word in words if word not in err] == []


def test_python_m_benchmarks_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hybrid-dense benchmark" in done.stdout
    assert "--against-trunks" in done.stdout


def test_no_ratio_and_no_growth_where_something_was_left_out():
    from hybrid_dense.analysis.benchmark import Benchmark, Row

    def row(subject, size):
        return Row(subject, "train", size, 1, (2.0,), 1, 1)

    found = Benchmark([row("hybrid", 64), row("cnn", 64), row("vit", 64), row("hybrid", 128), row("cnn", 128)])
    assert ratios(found, [("hybrid", ("cnn", "vit"))]) == {("hybrid", "train", 64): 0.5}
    assert [(growth["subject"], growth["quantity"]) for growth in find_growths(found)] == [
        ("hybrid", "time"),
        ("cnn", "time"),
    ]


def test_a_plot_of_what_was_measured(tmp_path):
    def row(subject, size, mode="train"):
        return dict(subject=subject, mode=mode, size=size, images_per_second=3.0, spread=None, parameters=10**6)

    rows = [row("a", 64), row("a", 128), row("b", 64), row("a", 256)]
    assert largest_common_size(rows) == 64
    assert largest_common_size([row("a", 64), row("b", 128)]) == 64
    assert save_benchmark_plot(rows, tmp_path / "new/plot.png").read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="nothing was measured"):
        save_benchmark_plot([], tmp_path / "none.png")


@pytest.mark.slow
def test_startup(command, tmp_path):
    done = command("benchmark", "--startup", "--repeat", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = json.loads((tmp_path / "startup.json").read_text())
    startup = page["startup"]
    assert f"{page['machine']['cpu']}, {page['machine']['cores']} cores; seconds from launch" in done.stdout
    assert {"import hybrid_dense", "of it, import torch", "demo, first training step"} <= set(startup)
    assert all(len(times["seconds"]) == 1 for times in startup.values())


@pytest.mark.slow
def test_a_compiled_twin_stands_beside_the_eager_one(command, tmp_path):
    done = command("benchmark", "cnn:rxnano", "--compile", "--mode", "infer", *QUICK, "--out", tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    page = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["subject"] for row in page["results"]] == ["cnn:rxnano", "cnn:rxnano compiled"]
