"""Training and testing as a user runs them: one process, two processes, resumed, and wrong in every common way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import LOOPS
from small_demo import DEMO, SMALL

from hybrid_dense.cli import main, run

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """The demo's model after one epoch of four steps."""
    work_dir = tmp_path_factory.mktemp("trained")
    done = command("train", DEMO, "--work-dir", work_dir, "--cfg-options", *SMALL, "train_cfg.max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    (work_dir / "terminal.txt").write_text(done.stdout)
    return work_dir


def test_a_short_head_is_on_the_terminal_and_the_dumps_are_in_the_log(trained):
    lines = (trained / "terminal.txt").read_text().splitlines()
    begun = next(index for index, line in enumerate(lines) if "Checkpoints will be saved to" in line)
    assert begun < 12
    head = [re.sub(r"\S*/", "", line) for line in lines[:begun] if line.startswith("  ")]
    assert head == [
        "  model    MaskRCNN on ParallelResNeXtViT rxnano_vit_pico, 2.5 M parameters",
        "  data     8 images to train on (CocoDataset), 4 to validate on",
        "  course   1 epoch of 4 steps, AdamW",
        f"  results  {trained.name}; config, environment and all that is logged: {log_of(trained).name}",
    ]
    assert not any(noise in line for line in lines for noise in ("OneDL", "index created", "System environment"))
    log = log_of(trained).read_text()
    assert {dump for dump in ("System environment:", "Config:\n", "Hooks will be executed") if dump not in log} == set()


def log_of(work_dir: Path) -> Path:
    return next(work_dir.glob("*/*.log"))


def test_resume_goes_on_at_the_right_step(command, trained):
    saved = torch.load(trained / "epoch_1.pth", weights_only=False)["meta"]
    assert (saved["epoch"], saved["iter"]) == (1, 4)
    options = ["--cfg-options", *SMALL, "train_cfg.max_epochs=2", "default_hooks.logger.interval=1"]
    done = command("train", DEMO, "--work-dir", trained, "--resume", "--verbose", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 epochs of 4 steps, AdamW; going on after step 4" in done.stdout
    assert "System environment:" in done.stdout and "index created!" in done.stdout
    dumped = Config.fromfile(trained / Path(DEMO).name)  # it can be trained again, after this checkpoint has gone
    assert (dumped.resume, dumped.load_from) == (False, None)
    steps = re.findall(r"Epoch\(train\)\s+\[(\d+)\]\[(\d+)/4\]", done.stdout + done.stderr)
    assert steps == [("2", str(step)) for step in (1, 2, 3, 4)]
    assert torch.load(trained / "epoch_2.pth", weights_only=False)["meta"]["iter"] == 8


def test_tools_test_prints_the_coco_table_and_writes_metrics(command, trained):
    checkpoint = sorted(trained.glob("epoch_*.pth"))[0]
    done = command("tools/test.py", DEMO, checkpoint, "--work-dir", trained / "test", "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((trained / "test/metrics.json").read_text())
    assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50"} <= set(metrics)
    printed = dict(re.findall(r"(coco/\S+)\s*[│|]\s*(\d\.\d{3}|–)", done.stdout))
    figures = {name: value for name, value in metrics.items() if name.startswith("coco/")}
    assert printed == {name: "–" if value == -1 else f"{value:.3f}" for name, value in figures.items()}


def test_two_processes_train_over_gloo_and_keep_one_model(command, tmp_path):
    options = [
        "--work-dir",
        tmp_path,
        "--cfg-options",
        *SMALL,
        "train_cfg.max_epochs=1",
        "default_hooks.logger.interval=1",
    ]
    done = command("tools/dist_train.sh", DEMO, 2, *options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 CPU processes over gloo" in done.stderr
    # Eight images, two processes of two images: two steps.
    assert re.findall(r"Epoch\(train\)\s+\[1\]\[(\d)/2\]", done.stdout + done.stderr) == ["1", "2"]
    assert torch.load(tmp_path / "epoch_1.pth", weights_only=False)["meta"]["iter"] == 2


def test_a_semantic_config_trains_and_tests_with_the_same_tools(command, tmp_path):
    config = PROJECT / "configs/demo_semantic.py"
    done = command("train", config, "--work-dir", tmp_path, "--cfg-options", *SMALL, "train_cfg.max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    done = command("test", config, tmp_path / "epoch_1.pth", "--work-dir", tmp_path, "--cfg-options", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["mIoU"] <= 100


CLASSES_BUT_ONE_MISSPELT = "['disk','square','triangel','star','ring','cross']"


MISTAKES = [
    ([PROJECT / "configs/demoo.py"], r"no config file .*demoo\.py; near it: .*demo\.py"),
    ([DEMO, "--cfg-options", *SMALL, "model.backbone.variant=rx50_vit_x"],
     "unknown variant 'rx50_vit_x', did you mean 'rx50"),
    ([DEMO, "--cfg-options", *SMALL, "model.backbone.fusion.type=GateFusion"], "did you mean 'GatedFusion'"),
    ([DEMO, "--cfg-options", *SMALL, "model.backbone.varient=rx50_vit_s"],
     r"nearest known is model\.backbone\.variant"),
    ([DEMO, "--cfg-options", *SMALL, "+model.rpn_head.anker=1"], "unexpected keyword argument 'anker'"),
    ([DEMO, "--cfg-options", *SMALL, "model.neck.in_channels=[1,2,3,4]"], r"HybridFPN was built for .* C2: 64"),
    ([DEMO, "--resume", "nowhere/epoch_9.pth"], r"no such checkpoint: nowhere/epoch_9\.pth"),
    ([PROJECT / "configs/tiny_coco.py", "--cfg-options", "data_root=/nowhere"], "needs /nowhere/.*does not exist"),
    ([DEMO, "--cfg-options", *SMALL, f"train_dataloader.dataset.metainfo.classes={CLASSES_BUT_ONE_MISSPELT}"],
     "'triangel'.*did you mean 'triangle'"),
    ([DEMO, "--cfg-options", *SMALL, "model.roi_head.bbox_head.num_classes=80"], "num_classes=80 .* 6 classes"),
    (["broken.py"], r"broken\.py, .*syntax"),
    ([DEMO, "--epochs", "2", "--cfg-options", *SMALL, "train_cfg=None"], r"--epochs needs train_cfg\.max_epochs"),
    ([DEMO, "--auto-scale-lr", "--cfg-options", *SMALL, "auto_scale_lr=None"], "--auto-scale-lr needs auto_scale_lr"),
    ([DEMO, "--cfg-options", *SMALL, "train_dataloader.batch_size=9", "train_dataloader.drop_last=True"],
     "the training set is smaller than one batch"),
]  # fmt: skip
# One process for all of them: loading the hosts takes longer than finding the mistake.
TRAIN_ALL = """
import contextlib, io, json, sys
from hybrid_dense.cli import main
said = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        said.append([main(["train", *words]), errors.getvalue()])
open(sys.argv[1], "w").write(json.dumps(said))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[tuple[int, str]]:
    """Exit code and error stream of `hybrid-dense train` for each of the mistakes."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "broken.py").write_text("model = dict(\n")
    words = json.dumps([[str(word) for word in arguments] for arguments, _ in MISTAKES])
    program = [sys.executable, "-c", TRAIN_ALL, folder / "answers.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYBRID_DENSE_CACHE": str(folder / "cache")}
    done = subprocess.run(
        program, cwd=folder, env=environment, input=words, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[message.split()[0] for _, message in MISTAKES])
def test_what_a_user_can_mend_is_one_clear_line(answers, number):
    code, stderr = answers[number]
    errors = [line for line in stderr.splitlines() if line.startswith("hybrid-dense: error:")]
    assert code == 2
    assert len(errors) == 1, stderr[-2000:]
    assert re.search(MISTAKES[number][1], errors[0])
    assert "Traceback" not in stderr


def test_a_class_that_is_not_registered_is_one_line(capsys):
    def command(args):
        LOOPS.build(dict(type="EpochLoop"))

    assert run(command, None) == 2
    assert capsys.readouterr().err.startswith("hybrid-dense: error: EpochLoop is not in the ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "a.yaml"], "'a.yaml' is a config; --resume without a checkpoint comes last"),
        (["--ema", "a.py"], "'a.py' is no momentum; --ema without one comes last"),
        (["a.py", "--epochs", "0"], "'0' is no number from 1 up"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_slips_with_options_are_named(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_more_processes_than_devices_names_the_form_that_works(command):
    done = command("tools/dist_train.sh", PROJECT / "configs/mask_rcnn_rx50_vit.py", 640, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert re.fullmatch(r"dist_launch\.sh: 640 GPUs asked for, none found; .*tools/dist_train\.sh … \d+\n", done.stderr)


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"])
def test_launchers_without_arguments_explain_themselves(command, script):
    done = command(f"tools/{script}")
    assert done.returncode == 2
    assert re.match(rf"usage: .*{script} ", done.stderr)
