"""Run by test_staged.py under torchrun: three stages in two processes, against one process on the whole batches."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import hybrid_dense  # noqa: F401  (registers the hook)

ADAMW = dict(lr=0.01, weight_decay=0.1)
STEPS, ENDS = 12, (3, 9)
STAGES = [dict(until=0.25, train=["neck", "head"]), dict(until=0.75, train=["backbone", "head"]), dict(train=["neck"])]
TRAINED = [{"neck", "bbox_head"}, {"backbone", "bbox_head"}, {"neck"}]


class Toy(BaseModel):
    """Without BatchNorm, so that half a batch each is the same as the whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.neck, self.bbox_head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, inputs, mode="tensor"):
        return dict(loss=self.bbox_head(self.neck(self.backbone(inputs).tanh()).tanh()).square().mean())


class Watch(Hook):
    def __init__(self):
        self.states = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append({name: value.clone() for name, value in runner.model.module.state_dict().items()})

    def moved(self, start: int, end: int) -> set[str]:
        before, after = self.states[start], self.states[end]
        return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}


def images() -> list[torch.Tensor]:
    return [torch.randn(4, generator=torch.Generator().manual_seed(index)) for index in range(4 * STEPS)]


def train_together(folder: Path, accumulate: int) -> Watch:
    watch = Watch()
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        launcher="pytorch",
        experiment_name=f"staged_ddp_{accumulate}",
        cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
        train_dataloader=dict(
            dataset=[dict(inputs=image) for image in images()],
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(ADAMW, type="AdamW"), accumulative_counts=accumulate),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type="StagedTrainingHook", stages=STAGES), watch],
    )
    runner.train()
    watch.before_train_iter(runner, STEPS)
    return watch


def train_alone(accumulate: int) -> dict:
    """The same by hand, with whole batches: the sampler deals images out in turn, so two of two are four in a row."""
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    for step in range(STEPS):
        trained = TRAINED[sum(step >= end for end in ENDS)]
        for name, part in model.named_children():
            part.requires_grad_(name in trained)
            if name not in trained:
                part.zero_grad()
        loss = model(torch.stack(images()[4 * step : 4 * step + 4]))["loss"]
        (loss / accumulate).backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    outcome = {}
    # With two batches an update, every stage begins between two of them.
    for accumulate in (1, 2):
        watch, alone = train_together(folder / f"{accumulate}", accumulate), train_alone(accumulate)
        end = watch.states[-1]
        first = [end]
        dist.broadcast_object_list(first)
        outcome[f"accumulate {accumulate}"] = dict(
            equal_to_single=all(torch.allclose(end[name], alone[name], atol=1e-6) for name in end),
            equal_to_rank_0=all(torch.equal(end[name], first[0][name]) for name in end),
            moved=[watch.moved(*ends) == parts for ends, parts in zip(((0, 3), (3, 9), (9, 12)), TRAINED, strict=True)],
        )
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
