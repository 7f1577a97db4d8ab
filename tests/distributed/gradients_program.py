"""Compares gradients of every topology and fusion under fully_shard with the plain ones; see test_sharding.py."""

import copy
import json
import os
import sys
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hybrid_dense
from hybrid_dense.engine.distributed import end_process, join_group
from hybrid_dense.engine.sharding import model_parts

if __name__ == "__main__":
    join_group("gloo", 60)
    torch.set_num_threads(1)
    mesh, differences = init_device_mesh("cpu", (2,)), {}
    for topology in hybrid_dense.list_topologies():
        for fusion in hybrid_dense.list_fusions():
            torch.manual_seed(0)
            options = dict(variant="rxnano_vit_pico", fusion=dict(type=fusion), with_cp=fusion == "GatedFusion")
            plain = MODELS.build(dict(type=topology, **options))
            for weight in plain.parameters():
                # The ways into the CNN begin at zero, where they would hide what is behind them.
                weight.data = torch.where(weight == 0, 0.02 * torch.randn_like(weight), weight).contiguous()
            shared = copy.deepcopy(plain)
            for unit in model_parts(shared, smallest=1):
                fully_shard(unit, mesh=mesh)
            fully_shard(shared, mesh=mesh)
            images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
            for model in (plain, shared):
                torch.manual_seed(2)
                sum(level.square().mean() for level in model(images)).backward()
            pairs = zip(plain.named_parameters(), shared.parameters(), strict=True)
            differences[f"{topology} {fusion}"] = max(
                float((other.grad.full_tensor() - weight.grad).norm() / weight.grad.norm().clamp(min=1e-12))
                for (_, weight), other in pairs
                if weight.grad is not None
            )
    if os.environ["RANK"] == "0":
        Path(sys.argv[1]).write_text(json.dumps(differences))
    end_process(0)
