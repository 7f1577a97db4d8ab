"""Trains a small network under DDP and under FSDP, and each from the other's checkpoint; see test_sharding.py."""

import json
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from hybrid_dense.engine.distributed import end_process, join_group
from hybrid_dense.engine.strategies import StrategyRunner, set_strategy


class Images(BaseDataset):
    """Sixteen random images and a number to guess for each."""

    def load_data_list(self) -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        return [
            dict(image=torch.randn(3, 16, 16, generator=generator), target=torch.randn(1, generator=generator))
            for _ in range(16)
        ]


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.stage = nn.Sequential(nn.Conv2d(8, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7), nn.GELU())

    def parts(self) -> dict[str, list[nn.Module]]:
        return {"stem": [self.stem], "stage": [self.stage, nn.Identity()]}

    def forward(self, images):
        return self.stage(self.stem(images))


class Guesser(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = Trunk().to(memory_format=torch.channels_last)
        self.head = nn.Linear(7, 1)

    def forward(self, image, target, sample_idx, mode):
        images = torch.stack(image).to(memory_format=torch.channels_last)
        guess = self.head(self.backbone(images).mean((2, 3)))
        return dict(loss=(guess - torch.stack(target)).square().mean())


class Record(Hook):
    """Keeps every loss and gradient norm."""

    def __init__(self):
        self.losses, self.norms = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"]))
        self.norms.append(runner.message_hub.get_scalar("train/grad_norm").current())


def train(name: str, strategy: str, work_dir: Path, epochs: int, load_from: Path | None = None, hooks=()) -> dict:
    cfg = Config(
        dict(
            model=dict(type=Guesser),
            work_dir=str(work_dir),
            experiment_name=name,
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                dataset=dict(type=Images),
                sampler=dict(type="DefaultSampler", shuffle=True),
            ),
            optim_wrapper=dict(
                type="GuardedOptimWrapper",
                optimizer=dict(type="AdamW", lr=0.01, fused=True),
                clip_grad=dict(max_norm=0.5),
            ),
            param_scheduler=dict(type="LinearLR", start_factor=0.1, end=2),
            train_cfg=dict(type="ExactEpochLoop", max_epochs=epochs),
            default_hooks=dict(checkpoint=dict(type="AtomicCheckpointHook", interval=1)),
            custom_hooks=list(hooks),
            launcher="pytorch",
            randomness=dict(seed=3),
            model_wrapper_cfg=dict(device_ids=None),
            log_level="ERROR",
            load_from=None if load_from is None else str(load_from),
            resume=load_from is not None,
        )
    )
    if strategy == "fsdp":
        cfg.strategy = dict(type="FullyShardStrategy", units=dict(type="model_parts", smallest=1))
    set_strategy(cfg, strategy, on_gpu=False)
    runner, record = StrategyRunner.from_cfg(cfg), Record()
    runner.register_hook(record, "VERY_LOW")
    runner.train()
    shards = [parameter for parameter in runner.model.parameters() if hasattr(parameter, "to_local")]
    return dict(
        losses=record.losses,
        norms=record.norms,
        model=type(runner.model).__name__,
        sharded=[sum(parameter.numel() for parameter in shards), sum(p.to_local().numel() for p in shards)],
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    join_group("gloo", 60)
    results = {strategy: train(strategy, strategy, folder / strategy, 2) for strategy in ("ddp", "fsdp")}
    results["ddp, then fsdp"] = train("b", "fsdp", folder / "b", 2, folder / "ddp/epoch_1.pth")
    results["fsdp, then ddp"] = train("c", "ddp", folder / "c", 2, folder / "fsdp/epoch_1.pth")
    # mmengine's FlexibleRunner loads before EMAHook has its averaged weights.
    results["averaged"] = train("d", "ddp", folder / "d", 2, folder / "ddp/epoch_1.pth", [dict(type="EMAHook")])
    if os.environ["RANK"] == "0":
        (folder / "results.json").write_text(json.dumps(results))
    end_process(0)
