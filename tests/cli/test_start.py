"""What commands do not load before they need it; each in a fresh process."""

import subprocess
import sys
from pathlib import Path

from hybrid_dense.cli import COMMANDS

PROJECT = Path(__file__).parents[2]
HEAVY = ("torch", "mmengine", "mmcv", "mmdet", "mmseg", "numpy", "cv2", "rich")

HELP = f"""
import sys
sys.argv[0] = "/usr/bin/hybrid-dense"
from hybrid_dense.cli import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
    loaded = [module for module in {HEAVY} if module in sys.modules]
    if loaded:
        sys.exit(f"{{name}} --help loads {{loaded}}")
"""

# The demo's launcher where there are two cores and no GPU; it says what it would have run.
DEMO = f"""
import os, sys
sys.argv = ["/usr/bin/hybrid-dense", "demo", "--work-dir", "here"]
from hybrid_dense.cli import demo, main
demo.torch_computes_on_gpus = lambda: False
os.sched_getaffinity = lambda process: {{0, 1, 2}}
demo.run_in_processes = lambda command, count: print(count, *command[1:], flush=True) or 7
code = main(sys.argv[1:])
assert code == 7, code
sys.exit(str([module for module in {HEAVY} if module in sys.modules]))
"""


def call(*arguments, cwd=None):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_of_every_command_loads_nothing_heavy():
    done = call("-c", HELP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: hybrid-dense ") == len(COMMANDS)


def test_the_demo_starts_its_processes_without_torch():
    done = call("-c", DEMO)
    assert done.stderr.strip() == "[]"
    assert done.stdout.splitlines()[-1] == "2 -m hybrid_dense demo --work-dir here --launcher=pytorch"


def test_run_as_a_module_it_is_the_command_and_loads_as_little():
    done = call("-X", "importtime", "-m", "hybrid_dense", "train", "--help")
    assert done.returncode == 0 and "usage: hybrid-dense train" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded and not loaded & set(HEAVY)


def test_a_program_run_as_a_module_has_the_registered_classes_it_imports_the_package_for(tmp_path):
    package = tmp_path / "stranger"
    package.mkdir()
    (package / "__init__.py").write_text("import hybrid_dense\n")
    (package / "__main__.py").write_text(
        "from mmengine.registry import MODELS\nprint(MODELS.get('ParallelResNeXtViT').__name__)\n"
    )
    done = call("-m", "stranger", cwd=tmp_path)
    assert done.stdout.strip() == "ParallelResNeXtViT", done.stderr
