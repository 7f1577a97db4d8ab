"""`hybrid-dense test` on what a training may have left behind."""

import torch
from mmengine.registry import MODELS, DefaultScope
from small_demo import DEMO, SMALL

from hybrid_dense.channels import fill_channels
from hybrid_dense.cli import main
from hybrid_dense.cli.session import read_config, register_host


def test_an_averaged_model_is_tested_folded(tmp_path, scenes, monkeypatch):
    config = tmp_path / "averaged.py"
    config.write_text(f'_base_ = ["{DEMO}"]\ncustom_hooks = [dict(type="EMAHook", update_buffers=True)]\n')
    cfg = read_config(config)
    register_host(cfg)
    with DefaultScope.overwrite_default_scope("mmdet"):
        fill_channels(cfg)
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "weights.pth")
    options = ["--work-dir", str(tmp_path / "run"), "--cfg-options", *SMALL]
    assert main(["test", str(config), str(tmp_path / "weights.pth"), *options]) == 0
    assert (tmp_path / "run/metrics.json").is_file()
