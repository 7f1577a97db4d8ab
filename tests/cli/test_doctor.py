"""`hybrid-dense doctor`: right about this installation, and about one that is broken."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_dense.cli import doctor


def rows(process) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(process.stdout)["checks"]}


def test_a_working_installation_is_healthy(command):
    process = command("doctor", "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    found = rows(process)
    assert all(check["ok"] for check in found.values() if check["required"])
    assert found["numpy"]["found"] == importlib.metadata.version("numpy")
    assert found["mmcv operators"]["found"].startswith("compiled for CPU")
    assert "gloo" in found["distributed"]["found"]


def test_a_broken_mmcv_is_reported_with_one_mend_for_all_it_breaks(command, tmp_path):
    (tmp_path / "mmcv.py").write_text('raise ImportError("undefined symbol: _ZN3c10")\n')
    process = command("doctor", "--json", PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    found = rows(process)
    assert not found["onedl-mmcv"]["ok"]
    assert "undefined symbol: _ZN3c10" in found["onedl-mmcv"]["found"]
    assert found["torch"]["ok"]
    mend = found["onedl-mmcv"]["mend"]
    assert "make setup" in mend or "MMCV_WITH_OPS=1" in mend
    # mmdet is not at fault: what mends mmcv mends it.
    assert {found[name]["mend"] for name in ("mmcv operators", "onedl-mmdetection", "onedl-mmsegmentation")} == {mend}


def test_the_table_names_the_mend_where_torch_is_broken(tmp_path):
    (tmp_path / "torch.py").write_text('raise ImportError("libtorch_cpu.so: cannot open shared object file")\n')
    # The installed command, not `python -m hybrid_dense`: only that one starts without torch.
    script = Path(sys.executable).with_name("hybrid-dense")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.run([script, "doctor"], env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "✗" in process.stdout
    assert "To mend:" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
    assert doctor.reinstall_stack("torch") in process.stdout


def test_probe_survives_a_crash_and_an_exception():
    assert doctor.probe("print('noise'); print('{\"a\": 1}')") == ({"a": 1}, "")
    assert doctor.probe("import os; os.abort()") == (None, "the import crashed (SIGABRT)")
    answer, error = doctor.probe(doctor.IMPORT, "no_such_module_anywhere")
    assert answer is None
    assert error == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"


def test_a_version_outside_the_range_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: "2.2.0")
    requirement = doctor.parse_requirement("onedl-mmcv>=2.3.6,<2.4")
    ok, found = doctor.judge_version("onedl-mmcv", {"version": "2.2.0"}, "", requirement)
    assert not ok
    assert found.startswith("2.2.0, but ")


def test_one_host_is_enough(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "onedl-mmsegmentation" else "3.5.1")
    answers = {package.distribution: ({"version": "3.5.1"}, "") for package in doctor.PACKAGES}
    answers[doctor.OPERATORS] = ({"cuda": "not available", "cuda_error": ""}, "")
    answers["onedl-mmsegmentation"] = (None, "ModuleNotFoundError: No module named 'mmseg'")
    checks = {check.name: check for check in doctor.check_packages(answers, None)}
    assert checks["onedl-mmdetection"].required
    assert not checks["onedl-mmsegmentation"].required
    assert not checks["onedl-mmsegmentation"].ok


def test_outside_the_projects_environment_mmcv_is_built_by_pip(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    mend = doctor.reinstall_stack("onedl-mmcv")
    assert "MMCV_WITH_OPS=1" in mend
    assert "--no-build-isolation" in mend
    assert f"onedl-mmcv=={doctor.constraints()['onedl-mmcv']}" in mend


@pytest.mark.parametrize("file", ["runtime.txt", "mm.txt", "tests.txt"])
def test_tested_versions_lie_in_the_ranges(file):
    lines = (Path(doctor.PROJECT) / "requirements" / file).read_text().splitlines()
    for requirement in (doctor.parse_requirement(line) for line in lines if line and line[0] != "#"):
        tested = doctor.constraints()[requirement.name]
        assert requirement.specifier.contains(tested), f"{requirement} excludes the tested {tested}"
