"""The demo's config, and the `--cfg-options` that make a training of it small: four steps of two images an epoch."""

from pathlib import Path

DEMO = Path(__file__).parents[1] / "configs/demo.py"
SMALL = (
    "scenes.train=8",
    "scenes.val=4",
    "scenes.size=96",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "train_cfg.val_interval=100",
)
