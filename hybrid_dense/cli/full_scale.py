"""COCO and PASCAL VOC on 8 GPUs: what these trainings should take, from counted operations and measured memory.

Nothing here has been run at that scale. `hybrid-dense configs --cost CONFIG` counts and measures what
configs/full_scale.json keeps; all else follows from the configs.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

GPUS = 8
# Assumed of a GPU: an A100's dense bfloat16 peak in FLOP/s, and the share of it that training reaches (MFU).
PEAK, MFU = 312e12, 0.05
# Images to train on, those without objects left out where the config does so, and to validate on; by the last folder of
# data_root.
IMAGES = {"coco": (117_266, 5_000), "VOCdevkit": (16_551, 4_952), "VOC2012": (10_582, 1_449)}
HEADER = ("command", "data set", "images seen", "GFLOPs an image", "GiB a GPU", "time", "result")
TEXT = f"""\
## COCO and PASCAL VOC on {GPUS} GPUs, ready to run

**None of these trainings was run**: time and memory are computed from what was counted and measured on a CPU.

```
hybrid-dense download coco                # or: voc07 voc12
tools/dist_train.sh CONFIG {GPUS} --dry-run    # measures on your machine, in minutes, what this table assumes
tools/dist_train.sh CONFIG {GPUS}
tools/dist_test.sh CONFIG CHECKPOINT {GPUS}
```

VOC 2012 aug needs `voc12`, the archive `benchmark.tgz` of its authors (Hariharan et al. 2011, "Semantic Contours from
Inverse Detectors") unpacked, and mmseg's converter, which comes with it:

```
mv benchmark_RELEASE data/VOCdevkit/VOCaug
converters=$(python -c "import mmseg; print(mmseg.__path__[0])")/.mim/tools/dataset_converters
python $converters/voc_aug.py data/VOCdevkit data/VOCdevkit/VOCaug --nproc 8
```

"""
NOTES = f"""
With `--epochs 36`, `configs/mask_rcnn_rx50_vit_pretrained.py` is trained for a 3x schedule. Where the trunks' weights
come from stands in [weights.md](weights.md), what `--dry-run` says in
[training.md](training.md#before-a-long-training).

- **GFLOPs an image**: one inference of the whole model, heads included, counted as everywhere here, on a square of at
  least as many pixels as the largest image of the pipeline; most images are smaller. Mask heads are counted on the
  128 boxes that training hands them at most, since an untrained model finds none.
- **Time**: 3 × these GFLOPs × images seen, and 1 × for every image of every validation, on {GPUS} GPUs of
  {MFU * PEAK / 1e12:.0f} TFLOP/s each. **That rate is an assumption**: {100 * MFU:.0f} % of an A100's
  {PEAK / 1e12:.0f} TFLOP/s in dense bfloat16 (MFU), on the safe side. On a CPU the backbone trains at 48 to 52 %
  of the machine's own matrix products ([performance](performance.md)). A GPU's products outrun its memory by more, and
  it waits for small operators, grouped convolutions, sampling and NMS, so a tenth of that share is assumed. At
  {200 * MFU:.0f} % a training takes half the time. Start, checkpoints and a loader that is too slow are not in it.
- **Memory**: the peak of a training step, measured on a CPU in float32, with weights, gradients and the optimizer's
  state, for the two images that a GPU holds of a step of 16. bfloat16 keeps less. Detectors were measured with one
  image of 7 objects, and the second is reckoned to take as much as the first; crowded images take more. DDP's
  buckets, a copy of the gradients, and the GPU's own libraries come on top.
- `hybrid-dense configs --cost CONFIG` counts and measures, in minutes; what it printed is kept in
  [full_scale.json](../configs/full_scale.json). All else follows from the configs whenever this page is written.
"""


@dataclass(frozen=True)
class Cost:
    """What was counted and measured for the model of some configs, as configs/full_scale.json keeps it.

    Args:
        configs: that have this very model and image size, by their names in the zoo.
        side: of the square images, in pixels.
        images: of the training step that was measured.
        gflops: of one image forward through the whole model; ``backbone_gflops`` through its backbone.
        memory_gib: the step's peak with all that stays from step to step; ``step_gib`` without.
    """

    configs: tuple[str, ...]
    side: int
    images: int
    gflops: float
    backbone_gflops: float
    memory_gib: float
    step_gib: float

    def memory_of(self, images: int) -> float:
        """GiB of a step with so many images, each of which takes as much as those that were measured."""
        return self.memory_gib + (images / self.images - 1) * self.step_gib


def read_costs(folder: Path) -> list[Cost]:
    """The costs in their order, from the folder of the configs."""
    entries = json.loads((folder / "full_scale.json").read_text())
    return [Cost(**dict(entry, configs=tuple(entry["configs"]))) for entry in entries]


def section(folder: Path) -> str:
    """The part of docs/zoo.md on these trainings."""
    from hybrid_dense.cli.session import read_config
    from hybrid_dense.report.tables import markdown_table

    rows = [row(name, read_config(folder / f"{name}.py"), cost) for cost in read_costs(folder) for name in cost.configs]
    return f"{TEXT}{markdown_table(HEADER, rows)}\n{NOTES}"


def row(name: str, cfg, cost: Cost) -> tuple[str, ...]:
    from hybrid_dense.cli.configs import DATASETS

    data, batch = Path(cfg.data_root).name, cfg.train_dataloader.batch_size
    seen, validated = count_images(cfg.train_cfg, *IMAGES[data], batch * GPUS)
    seconds = (3 * seen + validated) * cost.gflops * 1e9 / (GPUS * MFU * PEAK)
    return (
        f"`tools/dist_train.sh configs/{name}.py {GPUS}`",
        DATASETS[data],
        f"{seen / 1e6:.2f} M",
        f"{cost.gflops:.0f}",
        f"{cost.memory_of(batch):.1f}",
        f"{seconds / 3600:.1f} h",
        "not run",
    )


def count_images(loop: dict, train: int, val: int, step: int) -> tuple[int, int]:
    """How many images a whole schedule trains on and validates on.

    Args:
        loop: the config's ``train_cfg``.
        train, val: images of the data sets.
        step: images of a training step, of all processes together.
    """
    from mmengine.runner.utils import calc_dynamic_intervals

    from hybrid_dense.engine.dry_run import count_validations

    milestones, intervals = calc_dynamic_intervals(loop["val_interval"], loop.get("dynamic_intervals"))
    length = loop.get("max_epochs") or loop["max_iters"]
    seen = length * (train if "max_epochs" in loop else step)
    return seen, val * count_validations(length, loop.get("val_begin", 1), milestones, intervals)


def square_side(size: tuple[int, int]) -> int:
    """The side of a square of at least as many pixels as ``size``, in whole cells of stride 32."""
    return 32 * math.ceil(math.sqrt(size[0] * size[1]) / 32)


def measure(path: Path) -> dict:
    """Count and measure one config's model, as an entry of configs/full_scale.json; it computes for minutes.

    Raises:
        CommandError: it is of no host, or a step takes more memory than there is.
    """
    import torch

    from hybrid_dense.analysis.benchmark import DoesNotFit
    from hybrid_dense.analysis.subjects import parse_subject
    from hybrid_dense.cli import CommandError
    from hybrid_dense.cli.benchmark import build_workload
    from hybrid_dense.cli.benchmark_memory import measured_apart
    from hybrid_dense.cli.configs import CONFIGS, backbone_gflops, image_size
    from hybrid_dense.cli.session import HOSTS, read_config
    from hybrid_dense.engine.memory import available_memory

    cfg = read_config(path)
    if cfg.default_scope not in HOSTS:
        raise CommandError(f"{path} trains neither a detector nor a segmentor; --cost takes these")
    side = square_side(image_size(cfg))
    # One image, unless BatchNorm stands behind a pooled map, as it does in segmentors.
    images = 1 if cfg.default_scope == "mmdet" else cfg.train_dataloader.batch_size
    order = dict(batch=images, device="cpu", dtype="float32", threads=torch.get_num_threads(), cfg_options=[],
                 limit=available_memory(), size=side, mode="train")  # fmt: skip
    subject = parse_subject(str(path))
    try:
        memory, step = measured_apart(subject, order)
    except DoesNotFit as error:
        raise CommandError(f"{path}: {error}") from None
    work = build_workload(subject, order)
    work.load(side)
    return dict(
        configs=[os.path.relpath(path.with_suffix(""), CONFIGS)],
        side=side,
        images=images,
        gflops=round((work.count_forward() / images + count_masks(work.module)) / 1e9, 1),
        backbone_gflops=backbone_gflops(cfg, (side, side)),
        memory_gib=round(memory / 2**30, 2),
        step_gib=round(step / 2**30, 2),
    )


def count_masks(model) -> int:
    """FLOPs of a detector's mask heads on the most boxes an image that training hands them; 0 where there are none.

    Such heads stand behind the boxes that were found, and an untrained detector finds none to count.
    """
    import torch

    from hybrid_dense.analysis.complexity import count_flops
    from hybrid_dense.analysis.workload import on_meta

    roi_head = getattr(model, "roi_head", None)
    if not getattr(roi_head, "with_mask", False):
        return 0
    several = isinstance(roi_head.mask_head, torch.nn.ModuleList)  # a cascade's stages
    heads, extractors, settings = (
        thing if several else [thing] for thing in (roi_head.mask_head, roi_head.mask_roi_extractor, roi_head.train_cfg)
    )
    total = 0
    for head, extractor, stage in zip(heads, extractors, settings, strict=True):
        boxes = int(stage.sampler.num * stage.sampler.pos_fraction)
        shape = (boxes, extractor.out_channels, *extractor.roi_layers[0].output_size)
        twin, maps = on_meta(head), torch.zeros(shape, device="meta")
        with torch.no_grad():
            total += count_flops(lambda twin=twin, maps=maps: twin(maps))
    return total
