"""What importing the package does and leaves alone, each in a fresh process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.registry import MODELS

import hybrid_dense

PROJECT = Path(__file__).parents[1]

REGISTERED = {
    "MODELS": {
        "ParallelResNeXtViT",
        "PlainViT",
        "AddFusion",
        "GatedFusion",
        "IdentityFusion",
        "HybridFPN",
        "SimplePyramid",
        "DeformableEncoderNeck",
    },
    "WEIGHT_INITIALIZERS": {"TrunkPretrained"},
    "HOOKS": {"AtomicCheckpointHook", "AutocastHook", "MetricsReportHook", "RichProgressHook", "SignalHook"},
    "LOOPS": {"ExactEpochLoop", "ExactIterLoop"},
    "OPTIM_WRAPPERS": {"GuardedOptimWrapper"},
    "OPTIM_WRAPPER_CONSTRUCTORS": {"HybridLayerDecay"},
    "METRICS": {"BoundaryIoUMetric", "PanopticQualityMetric"},
}

# Everything this package puts into mmengine's registries, as {registry: [names]}.
OURS = """
from mmengine import registry
def ours():
    found = {}
    for name, root in vars(registry).items():
        if isinstance(root, registry.Registry):
            classes = root.module_dict.items()
            names = [key for key, value in classes if value.__module__.startswith("hybrid_dense")]
            if names:
                found[name] = sorted(names)
    return found
"""


def run(code):
    """The last line that a new process prints, read as JSON; the hosts print some of their own before."""
    finished = call(code)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def call(code):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="module")
def imported():
    """What is there after `import hybrid_dense`."""
    return run(
        f"import json, sys, hybrid_dense\n{OURS}\n"
        "print(json.dumps(dict(modules=sorted(sys.modules), registered=ours())))"
    )


@pytest.fixture(scope="module")
def brought_by_mmengine():
    """Modules that mmengine loads by itself; where transformers is installed, it looks for an optimizer there."""
    return run("import json, sys, mmengine.model, mmengine.optim\nprint(json.dumps(sorted(sys.modules)))")


STRANGERS = ["mmdet", "mmseg", "timm", "torchvision", "matplotlib", "pycocotools", "mmcv._ext"]
STRANGERS += ["transformers", "huggingface_hub", "safetensors"]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_import_leaves_the_hosts_and_heavy_libraries_alone(imported, brought_by_mmengine, stranger):
    assert "hybrid_dense" in imported["modules"]
    assert stranger not in set(imported["modules"]) - set(brought_by_mmengine)


def test_mmengine_brings_no_host(brought_by_mmengine):
    assert not {"mmdet", "mmseg", "mmcv._ext"} & set(brought_by_mmengine)


def test_import_registers_on_the_root_registries(imported):
    for registry, names in REGISTERED.items():
        assert names <= set(imported["registered"][registry])


@pytest.fixture(scope="module")
def hosts():
    """What is registered once both hosts are there too: our names, theirs, and what a name means in each scope."""
    return run(
        f"""
import json, hybrid_dense, mmdet.utils, mmseg.utils, mmdet.registry, mmseg.registry
{OURS}
mmdet.utils.register_all_modules(init_default_scope=False)
mmseg.utils.register_all_modules(init_default_scope=False)
mine, theirs, meaning = ours(), {{}}, {{}}
for host in (mmdet, mmseg):
    for name in mine:
        child = getattr(host.registry, name, None)
        if child is None:  # of this kind the host has no registry of its own
            continue
        theirs[f"{{host.__name__}}.{{name}}"] = sorted(child.module_dict)
        for key in mine[name]:
            meaning[f"{{host.__name__}}.{{key}}"] = child.get(key).__module__
print(json.dumps(dict(ours=mine, theirs=theirs, meaning=meaning)))
"""
    )


def test_no_name_of_ours_is_one_of_the_hosts(hosts):
    """A host's own class would win in its scope, without a word."""
    assert hosts["theirs"]["mmdet.MODELS"]
    assert hosts["theirs"]["mmseg.HOOKS"]
    for registry, names in hosts["theirs"].items():
        assert set(names) & set(hosts["ours"][registry.partition(".")[2]]) == set()


def test_our_names_mean_our_classes_in_both_hosts(hosts):
    assert "mmdet.ParallelResNeXtViT" in hosts["meaning"]
    assert "mmseg.ParallelResNeXtViT" in hosts["meaning"]
    assert {module.partition(".")[0] for module in hosts["meaning"].values()} == {"hybrid_dense"}


def test_public_names_are_there_and_no_other():
    assert {name for name in hybrid_dense.__all__ if getattr(hybrid_dense, name) is not None} == {
        "Prediction",
        "Predictor",
        "__version__",
        "list_fusions",
        "list_topologies",
        "list_variants",
        "register_all_modules",
    }
    with pytest.raises(AttributeError, match="module 'hybrid_dense' has no attribute 'Perdictor'"):
        hybrid_dense.Perdictor  # noqa: B018


def test_registering_again_does_nothing():
    names = set(MODELS.module_dict)
    hybrid_dense.register_all_modules()
    assert set(MODELS.module_dict) == names


# As the installed script runs: `sys.argv[0]` is its path.
HELP = """
import sys
sys.argv[0] = "/usr/bin/hybrid-dense"
from hybrid_dense.cli import main
try:
    main(["--help"])
finally:
    print([name for name in ("torch", "mmengine", "mmcv", "numpy") if name in sys.modules])
"""


def test_help_answers_in_under_a_second_and_without_torch():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        finished = call(HELP)
        seconds.append(time.perf_counter() - start)
    assert finished.returncode == 0, finished.stderr
    assert "usage: hybrid-dense" in finished.stdout
    assert all(command in finished.stdout for command in ("train", "test", "demo", "predict", "doctor"))
    assert finished.stdout.rstrip().endswith("[]"), "--help imported what it does not need"
    assert min(seconds) < 1.0


def test_doctor_needs_no_torch_to_explain_itself():
    assert call(HELP.replace('["--help"]', '["doctor", "--help"]')).stdout.rstrip().endswith("[]")
