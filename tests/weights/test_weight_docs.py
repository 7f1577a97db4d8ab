"""docs/weights.md shows what the code does."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from hybrid_dense.archs import CNN_ARCHS, VIT_ARCHS, ViTArch
from hybrid_dense.trunks import ResNeXt, ViT
from hybrid_dense.weights import CoverageReport, convert, layouts

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()


def test_every_layout_has_its_row():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]* ?\|$", PAGE.partition("| layout |")[2].partition("\n\n")[0], re.M)
    assert set(rows) - {"---"} == {layout.name for layout in layouts.LAYOUTS if not layout.refusal}
    assert all(f'"{layout.name}"' in PAGE for layout in layouts.LAYOUTS if layout.refusal)


def test_the_example_is_what_is_printed():
    """The files' names and shapes, with other values."""
    cnn = ResNeXt(CNN_ARCHS["rx50"]).state_dict() | {"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)}
    vit = ViT(replace(VIT_ARCHS["s"], patch=14), class_token=True, layer_scale=1e-5, native_size=37).state_dict()
    vit["pos_embed"] = torch.cat((vit["cls_token"], vit["pos_embed"]), dim=1)
    report = CoverageReport(
        cnn=convert(cnn, ResNeXt(CNN_ARCHS["rx50"]), "torchvision://resnext50_32x4d").coverage,
        vit=convert(vit, ViT(VIT_ARCHS["s"]), "timm://vit_small_patch14_dinov2.lvd142m").coverage,
    )
    shown = re.search(r"<!-- example -->\n```text\n(.*?)\n```\n<!-- end -->", PAGE, re.S)[1]
    assert shown == str(report)


def test_the_row_of_the_page_works(monkeypatch):
    """Names as in torchvision.models.vision_transformer, before and after its version 0.12."""
    row = re.search(r"```python\n(Layout\(.*?\n\))\n```", PAGE, re.S)[1]
    monkeypatch.setattr(layouts, "LAYOUTS", (eval(row, vars(layouts)), *layouts.LAYOUTS))
    trunk = ViT(ViTArch(dim=32, depth=4, heads=2), class_token=True, native_size=4)
    want = trunk.state_dict()
    for first, second in (("0", "3"), ("linear_1", "linear_2")):
        table = {
            "patch_embed.proj": "conv_proj",
            "cls_token": "class_token",
            "blocks.": "encoder.layers.encoder_layer_",
            ".norm": ".ln_",
            "attn.qkv.": "self_attention.in_proj_",
            "attn.proj": "self_attention.out_proj",
            "fc1": first,
            "fc2": second,
        }
        state = {"heads.head.weight": torch.ones(1)}
        for name, value in want.items():
            name = name.replace("norm.", "encoder.ln.") if name.startswith("norm.") else name
            for ours, theirs in table.items():
                name = name.replace(ours, theirs)
            state[name] = value
        state["encoder.pos_embedding"] = torch.cat((torch.zeros(1, 1, 32), state.pop("pos_embed")), dim=1)
        conversion = convert(state, trunk)
        assert conversion.coverage.layout == "torchvision ViT" and conversion.coverage.coverage == 1
        assert all(torch.equal(conversion.weights[name], want[name]) for name in want)
