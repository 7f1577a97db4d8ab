"""In half precision a model says what its checkpoint says: of the shipped kinds, after a few steps on drawn images."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from hybrid_dense.inference import Predictor
from hybrid_dense.weights.export import export

RESULTS = Path(__file__).parents[2] / "configs/results"
HEIGHT, WIDTH = 96, 128
BLOCKS = ((8, 8, 56, 40), (72, 16, 120, 88), (16, 52, 56, 88))  # x1 y1 x2 y2
COLOURS = ((220, 60, 40), (40, 200, 80), (60, 80, 230))


def drawing() -> tuple[np.ndarray, np.ndarray]:
    """An RGB image (h, w, 3) of three blocks, classes 0, 1 and 2, on a ground of class 3, and its label map (h, w)."""
    image = np.random.default_rng(0).integers(90, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.full((HEIGHT, WIDTH), 3, np.int64)
    for label, ((left, top, right, bottom), colour) in enumerate(zip(BLOCKS, COLOURS, strict=True)):
        image[top:bottom, left:right] = colour
        labels[top:bottom, left:right] = label
    return image, labels


def read(name: str) -> Config:
    """A study's config that tests images of the drawing's size."""
    cfg = Config.fromfile(RESULTS / name)
    for step in cfg.test_dataloader.dataset.pipeline:
        if "scale" in step:
            step.scale = (WIDTH, HEIGHT)
    return cfg


def fit(cfg: Config, sample, folder: Path, steps: int) -> Path:
    """A checkpoint of the config's model after some steps on the drawing, twice a batch."""
    torch.manual_seed(0)
    model = Predictor(cfg, device="cpu", fold=False).model.train()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), 2e-3))
    pixels = torch.from_numpy(drawing()[0][..., ::-1].copy()).permute(2, 0, 1)
    for _ in range(steps):
        model.train_step(dict(inputs=[pixels, pixels], data_samples=[sample.clone(), sample.clone()]), optimizer)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / "fitted.pth")
    return folder / "fitted.pth"


def both(cfg: Config, checkpoint: Path):
    """What the checkpoint and its half say of the drawing."""
    half = checkpoint.with_name("half.safetensors")
    export(checkpoint, cfg, half, half=True)
    image, _ = drawing()
    return Predictor(cfg, checkpoint, device="cpu")(image), Predictor(half, device="cpu")(image)


def test_label_maps_are_equal_but_for_a_thousandth(tmp_path):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    _, labels = drawing()
    sample = SegDataSample(metainfo=dict(img_shape=labels.shape, ori_shape=labels.shape))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
    cfg = read("camvid/hybrid.py")
    whole, half = both(cfg, fit(cfg, sample, tmp_path, 40))
    assert (whole.label_map == labels).mean() > 0.9  # it has learnt something that could be lost
    assert (whole.label_map == half.label_map).mean() > 0.999


def test_boxes_are_equal_to_half_a_pixel(tmp_path):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor(BLOCKS, dtype=torch.float32), labels=torch.arange(3))
    cfg = read("bccd/hybrid.py")
    whole, half = (found.above(0.3) for found in both(cfg, fit(cfg, sample, tmp_path, 40)))
    assert set(whole.labels) == {0, 1, 2}  # it has learnt something that could be lost
    assert np.array_equal(whole.labels, half.labels)
    assert np.abs(whole.boxes - half.boxes).max() < 0.5
    assert np.abs(whole.scores - half.scores).max() < 0.02
