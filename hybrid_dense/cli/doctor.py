"""Check the installation: what is installed, compiled and compatible, which devices and backends there are.

Each ✗ comes with the command that mends it. The exit code is 0 when everything that is required works, and 1 otherwise.
Imports are tried in processes of their own: one that fails, or crashes, is a line of the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CONSTRAINTS = PROJECT / "requirements" / "constraints.txt"


@dataclasses.dataclass(frozen=True)
class Check:
    """One row of the table; `mend` is the shell command for a row that is not `ok`."""

    group: str
    name: str
    ok: bool
    found: str
    tested: str = ""
    mend: str = ""
    required: bool = True


@dataclasses.dataclass(frozen=True)
class Package:
    """A distribution, the module that it installs, and the row whose fault would explain a failing import."""

    distribution: str
    module: str
    needs: str = ""


OPERATORS = "mmcv operators"
PACKAGES = (
    Package("numpy", "numpy"),
    Package("torch", "torch"),
    Package("opencv-python-headless", "cv2"),
    Package("onedl-mmengine", "mmengine", needs="torch"),
    Package("onedl-mmcv", "mmcv", needs="onedl-mmengine"),
    Package(OPERATORS, "mmcv._ext", needs="onedl-mmcv"),
    Package("onedl-mmdetection", "mmdet.apis", needs=OPERATORS),
    Package("onedl-mmsegmentation", "mmseg.apis", needs=OPERATORS),
    Package("pycocotools", "pycocotools.mask"),
    Package("faster-coco-eval", "faster_coco_eval"),
    Package("safetensors", "safetensors"),
    Package("matplotlib", "matplotlib"),
    Package("rich", "rich"),
)
HOSTS = ("onedl-mmdetection", "onedl-mmsegmentation")

IMPORT = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
print(json.dumps({"version": str(getattr(sys.modules[sys.argv[1].split(".")[0]], "__version__", ""))}))
"""
# Operators that import may still lack the kernels of this GPU, so one is run.
RUN_OPERATORS = """
import json, torch
from mmcv.ops import get_compiling_cuda_version, nms
boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.9, 0.8])
nms(boxes, scores, 0.5)
error = ""
if torch.cuda.is_available():
    try:
        nms(boxes.cuda(), scores.cuda(), 0.5)
    except RuntimeError as failure:
        error = str(failure).splitlines()[0]
print(json.dumps({"cuda": get_compiling_cuda_version(), "cuda_error": error}))
"""
ASK_TORCH = """
import json, torch, torch.distributed as distributed
gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
    "mps": torch.backends.mps.is_available(),
    "gloo": distributed.is_available() and distributed.is_gloo_available(),
    "nccl": distributed.is_available() and distributed.is_nccl_available(),
}))
"""


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    checks = examine()
    healthy = all(check.ok for check in checks if check.required)
    if args.json:
        print(json.dumps({"ok": healthy, "checks": [dataclasses.asdict(check) for check in checks]}, indent=2))
    else:
        print_table(checks)
        print_mends(checks)
    return 0 if healthy else 1


def examine() -> list[Check]:
    """Look at everything; takes some seconds, because torch and the OpenMMLab stack are really imported."""
    programs = {package.distribution: (IMPORT, package.module) for package in PACKAGES}
    programs[OPERATORS] = (RUN_OPERATORS,)
    programs["devices"] = (ASK_TORCH,)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = dict(zip(programs, pool.map(lambda program: probe(*program), programs.values()), strict=True))
    torch, _ = answers["devices"]
    packages = check_packages(answers, torch)
    operators_work = any(check.name == OPERATORS and check.ok for check in packages)
    return [check_python(), *packages, *check_devices(torch), *check_tools(torch, operators_work), *check_extras()]


def probe(program: str, *arguments: str) -> tuple[dict | None, str]:
    """Run a Python program that prints JSON; returns (what it printed, ""), or (None, what went wrong in one line)."""
    # `python -c` looks into the current folder first, which the installed command does not.
    program = 'import sys\nif "" in sys.path: sys.path.remove("")\n' + program
    try:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *arguments], capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return None, "no answer in 5 minutes"
    if process.returncode < 0:
        return None, f"the import crashed ({signal.Signals(-process.returncode).name})"
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"exit code {process.returncode}"
    return json.loads(process.stdout.splitlines()[-1]), ""


# --- packages ---------------------------------------------------------------------------------------------------------


def check_python() -> Check:
    wanted = metadata_field("Requires-Python")
    ok = not wanted or parse_requirement(f"python{wanted}").specifier.contains(platform.python_version())
    return Check("packages", "Python", ok, platform.python_version(), "3.11", mend="make clean setup PYTHON=python3.11")


def check_packages(answers: dict[str, tuple[dict | None, str]], torch: dict | None) -> list[Check]:
    requirements = {requirement.name: requirement for requirement in ours()}
    hosts = [name for name in HOSTS if installed(name)]
    checks: dict[str, Check] = {}
    for package in PACKAGES:
        name = package.distribution
        answer, error = answers[name]
        if name == OPERATORS:
            ok, found = judge_operators(answer, error, torch)
            tested, mend = "", reinstall_stack("onedl-mmcv")
        else:
            ok, found = judge_version(name, answer, error, requirements.get(name))
            tested = constraints().get(name, "")
            mend = reinstall(name, requirements.get(name), broken=answer is None and installed(name) is not None)
        if answer is None and package.needs and not checks[package.needs].ok:
            mend = checks[package.needs].mend
        # One host is enough: who only detects needs no mmseg, and the reverse.
        required = name not in HOSTS or name in hosts or not hosts
        checks[name] = Check("packages", name, ok, found, tested, "" if ok else mend, required)
    return list(checks.values())


def judge_version(name: str, answer: dict | None, error: str, requirement) -> tuple[bool, str]:
    version = installed(name) or (answer or {}).get("version")
    if answer is None:
        return False, f"{version} does not import: {error}" if version else "not installed"
    if requirement is not None and version and not requirement.specifier.contains(version, prereleases=True):
        return False, f"{version}, but {requirement.specifier} is needed"
    return True, version or "unknown version"


def judge_operators(answer: dict | None, error: str, torch: dict | None) -> tuple[bool, str]:
    if answer is None:
        return False, f"not usable: {error}"
    if answer["cuda_error"]:
        return False, f"CPU only, while torch sees a GPU: {answer['cuda_error']}"
    cuda = answer["cuda"] if torch and torch["cuda"] else "not available"
    return True, "compiled for CPU" if cuda == "not available" else f"compiled for CPU and CUDA {cuda}"


def reinstall(name: str, requirement, broken: bool) -> str:
    """The command that installs a package, or puts one that is installed but does not import in place again."""
    if name in ("torch", "onedl-mmcv"):
        return reinstall_stack(name)
    return pip_install(*(["--force-reinstall", "--no-deps"] if broken else []), str(requirement or name))


def reinstall_stack(name: str) -> str:
    """The same for torch and mmcv, whose builds have to match: the project's set-up, where it made this environment."""
    if Path(sys.prefix) == PROJECT / ".venv":
        return f"cd {shlex.quote(str(PROJECT))} && rm -f .venv/.setup-* && make setup"
    pinned = f"{name}=={constraints()[name]}" if name in constraints() else name
    if name == "torch":
        return pip_install(pinned)
    build = pip_install("--no-build-isolation", "--no-cache-dir", "--force-reinstall", "--no-deps", pinned)
    return f"{pip_install('setuptools', 'wheel', 'ninja')} && MMCV_WITH_OPS=1 {build}"


def pip_install(*arguments: str) -> str:
    constrained = ["-c", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    return shlex.join([sys.executable, "-m", "pip", "install", *constrained, *arguments])


def constraints() -> dict[str, str]:
    """The tested version of each package, by name; empty outside a checkout."""
    lines = CONSTRAINTS.read_text().splitlines() if CONSTRAINTS.exists() else []
    return dict(re.match(r"([\w.-]+)==([^ ;]+)", line).groups() for line in lines if "==" in line and line[0] != "#")


def installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def metadata_field(field: str, several: bool = False):
    """A field of this package's own metadata; None, or nothing of several, where only its files are there."""
    try:
        metadata = importlib.metadata.metadata("hybrid-dense")
    except importlib.metadata.PackageNotFoundError:
        return [] if several else None
    return metadata.get_all(field, []) if several else metadata.get(field)


def ours(extra: str = "mm") -> Iterable:
    """What this package requires by itself and for one extra."""
    for line in metadata_field("Requires-Dist", several=True):
        requirement = parse_requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            yield requirement


def parse_requirement(line: str):
    try:
        from packaging.requirements import Requirement
    except ImportError:  # an environment that is that broken still has pip's copy
        from pip._vendor.packaging.requirements import Requirement
    return Requirement(line)


# --- devices, tools, extras -------------------------------------------------------------------------------------------


def check_devices(torch: dict | None) -> list[Check]:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    bfloat16 = ", ".join(sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})) or "none seen"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    checks = [Check("devices", "CPU", True, f"{cores} cores, bfloat16 instructions: {bfloat16}")]
    if torch is None:
        return checks
    driver = succeeds("nvidia-smi", "-L")
    if torch["gpus"]:
        cuda = Check("devices", "CUDA", True, "; ".join(torch["gpus"]))
    elif driver:
        why = "is blind to it" if torch["cuda"] else "is a CPU build"
        found = f"there is an NVIDIA driver, but torch {torch['version']} {why}"
        cuda = Check("devices", "CUDA", False, found, mend=reinstall_stack("torch"), required=False)
    else:
        cuda = Check("devices", "CUDA", True, "none (no NVIDIA driver)")
    gloo = "gloo" if torch["gloo"] else "no gloo, which training in several CPU processes needs"
    nccl = "nccl" if torch["nccl"] else "no nccl, which training on several GPUs needs"
    whole = torch["gloo"] and (torch["nccl"] or not torch["gpus"])
    return [
        *checks,
        cuda,
        Check("devices", "MPS", True, "available" if torch["mps"] else "none"),
        Check("devices", "distributed", whole, f"{gloo}; {nccl}", mend=reinstall_stack("torch"), required=False),
    ]


def check_tools(torch: dict | None, operators_work: bool) -> list[Check]:
    """Compilers are needed only to build mmcv's operators, so a missing one is a fault only while those are missing."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    checks = [
        Check(
            "tools",
            "C++ compiler",
            compiler is not None,
            first_line(compiler, "--version") if compiler else "none",
            mend="sudo apt-get install g++",
            required=not operators_work,
        )
    ]
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    nvcc = str(toolkit) if toolkit.exists() else shutil.which("nvcc")
    release = re.search(r"release ([\d.]+)", output(nvcc, "--version")) if nvcc else None
    found = f"CUDA {release[1]}" if release else "none"
    if torch is None or not torch["gpus"]:
        return [*checks, Check("tools", "nvcc", True, f"{found} (of use with an NVIDIA GPU only)")]
    major = torch["cuda"].split(".")[0]
    fits = release is not None and release[1].split(".")[0] == major
    mend = f"sudo apt-get install cuda-toolkit-{torch['cuda'].replace('.', '-')}"
    return [*checks, Check("tools", "nvcc", fits, f"{found}; torch is of CUDA {torch['cuda']}", "", mend, False)]


def check_extras() -> list[Check]:
    checks = []
    base = {requirement.name for requirement in ours()}
    for extra in metadata_field("Provides-Extra", several=True):
        wanted = [requirement for requirement in ours(extra) if requirement.name not in base]
        if not wanted:  # [mm] itself
            continue
        found = {requirement.name: installed(requirement.name) for requirement in wanted}
        missing = [name for name, version in found.items() if version is None]
        summary = f"missing: {', '.join(missing)}" if missing else ", ".join(f"{n} {v}" for n, v in found.items())
        mend = pip_install(*(["-e", f"{PROJECT}[{extra}]"] if CONSTRAINTS.exists() else [f"hybrid-dense[{extra}]"]))
        checks.append(Check("extras", f"[{extra}]", not missing, summary, "", mend, False))
    return checks


def output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def first_line(*command: str) -> str:
    return (output(*command).splitlines() or ["does not run"])[0]


def succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- printing ---------------------------------------------------------------------------------------------------------


def print_table(checks: list[Check]) -> None:
    heads = ("", "what", "found", "tested with")
    rows = [("✓" if check.ok else "✗", check.name, check.found, check.tested) for check in checks]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        width = max(len(check.name) for check in checks)
        for mark, name, found, tested in rows:
            print(f"{mark} {name:<{width}}  {found}" + (f"  (tested with {tested})" if tested else ""))
        return
    table = Table(*heads)
    for check, row, following in zip(checks, rows, [*checks[1:], None], strict=True):
        style = "green" if check.ok else "bold red" if check.required else "yellow"
        last = following is None or following.group != check.group
        table.add_row(Text(row[0], style), *map(Text, row[1:]), end_section=last)
    Console().print(table)


def print_mends(checks: list[Check]) -> None:
    """Faults first, then what is optional; one command that mends several rows is printed once."""
    for required, title in ((True, "To mend:"), (False, "Optional, not there or not usable:")):
        names: dict[str, list[str]] = {}
        for check in checks:
            if not check.ok and check.required == required:
                names.setdefault(check.mend, []).append(check.name)
        if names:
            print(f"\n{title}")
        for mend, affected in names.items():
            print(f"  ✗ {', '.join(affected)}\n    {mend}")
